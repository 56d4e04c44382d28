"""openstacksdk: several clients, each doing what comes to its mind with whatever there is. Its argument makes the choices. The last line is how
many of its requests were carried out."""

import random
import sys
import threading
import time

import openstack
from openstack import exceptions

THREADS = 3
TURNS = 60
# Somebody else was faster, or there is no room. Anything else is a bug.
LAWFUL = {400, 404, 409, 413}


class Client:
    def __init__(self, seed):
        self.block = openstack.connect(load_yaml_config=False, load_envvars=True).block_storage
        self.random = random.Random(seed)
        self.done = 0

    def any(self, things):
        """One of all that there are now."""
        things = list(things)
        return self.random.choice(things) if things else None

    def volume(self):
        return self.any(self.block.volumes(details=False))

    def snapshot(self):
        return self.any(self.block.snapshots())

    def backup(self):
        return self.any(self.block.backups())

    def create(self):
        self.block.create_volume(size=self.random.randint(1, 3))
        return True

    def copy(self):
        source = self.random.choice(["snapshot", "source_volume", "backup"])
        thing = self.volume() if source == "source_volume" else getattr(self, source)()
        return thing and self.block.create_volume(**{f"{source}_id": thing.id}, size=self.random.randint(1, 4))

    def delete(self):
        volume, cascade = self.volume(), self.random.random() < 0.3
        return volume and self.block.delete_volume(volume, cascade=cascade, ignore_missing=False) is None

    def extend(self):
        volume = self.volume()
        return volume and self.block.extend_volume(volume, self.random.randint(2, 4)) is None

    def freeze(self):
        volume = self.volume()
        return volume and self.block.create_snapshot(volume_id=volume.id, is_forced=True)

    def delete_snapshot(self):
        snapshot = self.snapshot()
        return snapshot and self.block.delete_snapshot(snapshot, ignore_missing=False) is None

    def revert(self):
        snapshot = self.snapshot()
        return snapshot and self.block.revert_volume_to_snapshot(snapshot.volume_id, snapshot) is None

    def retype(self):
        volume, kind = self.volume(), self.any(self.block.types())
        return volume and self.block.retype_volume(volume, kind) is None

    def attach(self):
        volume = self.volume()
        if not volume:
            return False
        made = self.block.create_attachment(volume.id, instance=f"{self.random.random()}", connector={"host": "here"})
        self.block.complete_attachment(made)
        return True

    def detach(self):
        attachment = self.any(self.block.attachments())
        return attachment and self.block.delete_attachment(attachment, ignore_missing=False) is None

    def back_up(self):
        volume, incremental = self.volume(), self.random.random() < 0.5
        return volume and self.block.create_backup(volume_id=volume.id, is_incremental=incremental, force=True)

    def restore(self):
        backup, volume = self.backup(), self.volume()
        return backup and volume and self.block.restore_backup(backup, volume=volume.id)

    def delete_backup(self):
        backup = self.backup()
        return backup and self.block.delete_backup(backup, ignore_missing=False) is None

    def offer(self):
        volume = self.volume()
        if not volume:
            return False
        transfer = self.block.create_transfer(volume_id=volume.id)
        if self.random.random() < 0.5:
            return self.block.accept_transfer(transfer.id, transfer.auth_key)
        self.block.delete_transfer(transfer, ignore_missing=False)
        return True

    DEEDS = [
        create, create, create, copy, copy, delete, extend, freeze, freeze, freeze, delete_snapshot, revert, retype,
        attach, attach, detach, detach, back_up, back_up, back_up, restore, delete_backup, offer,
    ]

    def run(self):
        for _ in range(TURNS):
            deed = self.random.choice(self.DEEDS)
            try:
                self.done += bool(deed(self))
            except exceptions.HttpException as error:
                assert error.status_code in LAWFUL, (deed.__name__, error)
            # What was begun goes on meanwhile, or much would be refused for being busy.
            time.sleep(self.random.random() / 50)


failures = []


def run(client):
    try:
        client.run()
    except Exception as error:
        failures.append(error)


clients = [Client(f"{sys.argv[1]}-{n}") for n in range(THREADS)]
threads = [threading.Thread(target=run, args=(client,)) for client in clients]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for failure in failures:
    raise failure
print(sum(client.done for client in clients))
