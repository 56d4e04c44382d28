"""Restores by openstacksdk while they last: what states backup and volume show, and what is refused with which words. The pool's limit of writes holds
them back until it is lifted, also for good: then it is cancelled, and all is as before."""

import os
import subprocess
import time

import openstack
from openstack import exceptions

conn = openstack.connect(load_yaml_config=False, load_envvars=True)
block = conn.block_storage
NATIVE = os.environ["CINDER_ENDPOINT"].removesuffix("/v3") + "/cairn/v1"
POOL_LIMITS = NATIVE + "/qos/pool"
HERE = {"host": "here"}


def refused(status, call, *args, says, **kwargs):
    try:
        call(*args, **kwargs)
    except exceptions.HttpException as error:
        assert error.status_code == status and says in error.details, (error.status_code, error.details)
        return
    raise AssertionError(f"{call} was not refused")


def rests(thing, status="available"):
    thing = thing.fetch(block)
    return block.wait_for_status(thing, status=status, failures=["error", "error_restoring"], interval=0.05, wait=120)


def attached_io(volume, command):
    attachment = block.create_attachment(volume.id, instance="1", connector=HERE)
    url = block.get_attachment(attachment.id).connection_info["url"]
    done = subprocess.run(["qemu-io", "-f", "raw", "-c", command, url], capture_output=True, text=True)
    assert done.returncode == 0 and "failed" not in done.stdout, done
    block.delete_attachment(attachment.id)
    rests(volume)


def held_back():
    """So that what was begun takes an hour."""
    answer = conn.session.patch(POOL_LIMITS, json={"write_bytes_sec": 4096})
    assert answer.status_code == 200, answer.text


def goes_on():
    answer = conn.session.delete(POOL_LIMITS)
    assert answer.status_code == 204, answer.text


def states(backup, volume):
    return block.get_backup(backup.id).status, block.get_volume(volume).status


def cancelled(backup):
    """Takes the restore of a backup back while it is held back."""
    tasks = conn.session.get(NATIVE + "/tasks").json()["tasks"]
    [task] = [task for task in tasks if task["object_id"] == backup.id]
    assert (task["status"], task["object_kind"], task["cancellable"]) == ("running", "backup", True), task
    answer = conn.session.delete(f"{NATIVE}/tasks/{task['id']}")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelling"), answer.text
    goes_on()
    for _ in range(2400):
        ended = conn.session.get(f"{NATIVE}/tasks/{task['id']}").json()
        if ended["status"] != "cancelling":
            break
        time.sleep(0.05)
    assert (ended["status"], ended["cancellable"]) == ("cancelled", False), ended
    assert block.get_backup(backup.id).status == "available"
    assert conn.session.delete(f"{NATIVE}/tasks/{task['id']}", raise_exc=False).status_code == 409


volume = rests(block.create_volume(name="db", size=1))
attached_io(volume, "write -P 7 0 16M")
backup = rests(block.create_backup(volume_id=volume.id, name="b"))
rests(volume)
attached_io(volume, "write -P 8 0 16M")

# Over the volume that is there.
held_back()
block.restore_backup(backup, volume=volume.id)
assert states(backup, volume.id) == ("restoring", "restoring-backup")
restoring = "status is restoring, and must be available"
refused(400, block.restore_backup, backup, name="x", says=restoring)
refused(400, block.delete_backup, backup, ignore_missing=False, says=restoring)
refused(400, block.create_volume, name="x", size=1, backup_id=backup.id, says=restoring)
restoring = "status is restoring-backup, and must be available"
refused(400, block.delete_volume, volume, ignore_missing=False, says=restoring)
refused(400, block.create_attachment, volume.id, instance="1", connector=HERE, says=restoring)
refused(400, block.create_transfer, volume_id=volume.id, says=restoring)
refused(400, block.extend_volume, volume, 2, says=restoring)
refused(400, block.set_volume_readonly, volume, True, says=restoring)
goes_on()
rests(backup)
rests(volume)
attached_io(volume, "read -P 7 0 16M")

# To a new one.
held_back()
block.restore_backup(backup, name="again")
again = block.find_volume("again", ignore_missing=False)
assert states(backup, again.id) == ("restoring", "restoring-backup")
refused(400, block.delete_volume, again, ignore_missing=False, says=restoring)
goes_on()
rests(backup)
again = rests(again)
attached_io(again, "read -P 7 0 16M")

# Taken back: the volume has what it had, and a new one is to be deleted by its owner.
attached_io(volume, "write -P 9 0 16M")
held_back()
block.restore_backup(backup, volume=volume.id)
cancelled(backup)
assert block.get_volume(volume.id).status == "available"
attached_io(volume, "read -P 9 0 16M")
held_back()
block.restore_backup(backup, name="never")
never = block.find_volume("never", ignore_missing=False)
cancelled(backup)
assert block.get_volume(never.id).status == "error_restoring"
refused(400, block.create_attachment, never.id, instance="1", connector=HERE, says="status is error_restoring")

for one in [volume, again, never]:
    block.delete_volume(one, ignore_missing=False)
    block.wait_for_delete(one, interval=0.05, wait=60)
block.delete_backup(backup, ignore_missing=False)
block.wait_for_delete(backup, interval=0.05, wait=60)
assert all(n == 0 for n in block.get_quota_set("demo", usage=True).usage.values())
