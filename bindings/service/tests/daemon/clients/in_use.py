"""Attached volumes with python-cinderclient: what takes force, limits that change under a consumer, states that are set by hand, and what no force
deletes."""

import subprocess

from asking import ask, cinder_of, goes, refused, rests

cinder = cinder_of("p")
SERVER = "11111111-1111-1111-1111-111111111111"


def qemu_io(url, *commands):
    words = [word for command in commands for word in ("-c", command)]
    return subprocess.run(["qemu-io", "-f", "raw", *words, url], capture_output=True, text=True)


def done(output):
    assert output.returncode == 0 and "failed" not in output.stdout, output


class Consumer:
    """Somebody who has a volume open, and goes on with it."""

    def __init__(self, url):
        self.process = subprocess.Popen(
            ["qemu-io", "-f", "raw", url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def write(self, byte):
        self.process.stdin.write(f"write -P {byte} 0 4096\nflush\n")
        self.process.stdin.flush()
        said = ""
        # One line for a write that was done. What failed, or ended, has other words.
        while " ops; " not in said:
            line = self.process.stdout.readline()
            assert line and "failed" not in said + line, said + line
            said += line

    def is_cut_off(self):
        said, _ = self.process.communicate("write -P 99 0 4096\nquit\n", timeout=120)
        return "write failed" in said


def made(size=1, **more):
    return rests(cinder.volumes, cinder.volumes.create(size, **more))


def attach(volume, **more):
    attachment = cinder.attachments.create(volume.id, {"host": "here"}, SERVER, **more)
    cinder.attachments.complete(attachment["id"])
    rests(cinder.volumes, volume, "in-use")
    return attachment


# An attachment in its three steps. Each is taken once.
volume = made(name="v")
attachment = cinder.attachments.create(volume.id, None, SERVER)
assert attachment["status"] == "reserved" and not attachment["connection_info"], attachment
assert cinder.volumes.get(volume.id).status == "reserved"
attachment = cinder.attachments.update(attachment["id"], {"host": "here"})
url = attachment.connection_info["url"]
assert cinder.attachments.show(attachment.id).status == "attaching"
cinder.attachments.complete(attachment.id)
refused(400, cinder.attachments.complete, attachment.id, says="attached")
rests(cinder.volumes, volume, "in-use")
refused(400, cinder.attachments.create, volume.id, {"host": "here"}, SERVER, says="in-use")
done(qemu_io(url, "write -P 7 0 65536", "flush"))

# Snapshots and backups of it take force; snapshots no longer do from 3.66 on, where false is a mistake.
older, oldest = cinder_of("p", "3.65"), cinder_of("p", "3.0")
for one in (older, oldest):
    refused(400, one.volume_snapshots.create, volume.id, says="in-use")
forced = rests(cinder.volume_snapshots, older.volume_snapshots.create(volume.id, force=True))
plain = rests(cinder.volume_snapshots, cinder_of("p", "3.66").volume_snapshots.create(volume.id))
status, said = ask("POST", "snapshots", {"snapshot": {"volume_id": volume.id, "force": False}}, version="3.66")
assert status == 400 and "3.66" in said["badRequest"]["message"], said
refused(400, cinder.backups.create, volume.id, says="in-use")
backup = rests(cinder.backups, cinder.backups.create(volume.id, force=True))
assert cinder.volumes.get(volume.id).status == "in-use"
frozen = rests(cinder.backups, cinder.backups.create(volume.id, snapshot_id=plain.id))
refused(400, cinder.restores.restore, backup.id, volume.id, says="in-use")

# The older snapshot goes before the later one.
cinder.volume_snapshots.delete(forced)
goes(cinder.volume_snapshots, forced)
refused(400, cinder.volumes.force_delete, volume, says="attached")
cinder.volume_snapshots.delete(plain)
goes(cinder.volume_snapshots, plain)
for one in (frozen, backup):
    cinder.backups.delete(one)
    goes(cinder.backups, one)

# Limits change while it is attached.
kind = cinder.volume_types.create("limited")
cinder.volumes.retype(volume, "limited", "never")
rests(cinder.volumes, volume, "in-use")
qos = cinder.qos_specs.create("both", {"consumer": "both", "total_iops_sec": "500"})
cinder.qos_specs.associate(qos.id, kind.id)


def rates():
    status, said = ask("GET", f"/cairn/v1/volumes/{volume.id}/qos")
    assert status == 200, said
    return said["qos"]["rates"]


assert rates() == {"total_iops_sec": 500}
cinder.qos_specs.set_keys(qos.id, {"total_iops_sec": "700", "read_bytes_sec": "1048576"})
assert rates() == {"total_iops_sec": 700, "read_bytes_sec": 1048576}
cinder.qos_specs.unset_keys(qos.id, ["read_bytes_sec"])
assert rates() == {"total_iops_sec": 700}
refused(400, cinder.qos_specs.unset_keys, qos.id, ["read_bytes_sec"], says="read_bytes_sec")
refused(400, cinder.qos_specs.set_keys, qos.id, {"total_iops_sec": "many"})
refused(400, cinder.qos_specs.set_keys, qos.id, {"consumer": "nobody"}, says="consumer")
refused(400, cinder.qos_specs.create, "bad", {"consumer": "nobody"}, says="consumer")
assert rates() == {"total_iops_sec": 700} and cinder.qos_specs.get(qos.id).consumer == "both"
second = cinder.qos_specs.create("front", {"consumer": "front-end", "total_bytes_sec": "2097152"})
refused(400, cinder.qos_specs.associate, second.id, kind.id, says="already associated")
cinder.qos_specs.disassociate(qos.id, kind.id)
assert rates() == {}
# Those of the front-end are told to the consumer, and are not the engine's.
cinder.qos_specs.associate(second.id, kind.id)
assert rates() == {}
cinder.attachments.delete(attachment.id)
rests(cinder.volumes, volume)
attachment = attach(volume)
assert attachment["connection_info"]["qos_specs"] == {"total_bytes_sec": "2097152"}, attachment
cinder.qos_specs.disassociate_all(second.id)
cinder.qos_specs.associate(qos.id, kind.id)
told = cinder.volumes.initialize_connection(volume, {"host": "here"})["data"]["qos_specs"]
assert told == {"total_iops_sec": "700"} and rates() == {"total_iops_sec": 700}, told
cinder.qos_specs.set_keys(qos.id, {"consumer": "back-end"})
told = cinder.volumes.initialize_connection(volume, {"host": "here"})["data"]["qos_specs"]
assert told is None and rates() == {"total_iops_sec": 700}, told
cinder.qos_specs.disassociate_all(qos.id)

# Set by hand: the consumer is cut off, and what it wrote is there.
refused(400, cinder.volumes.reset_state, volume, "bananas", says="bananas")
refused(400, cinder.volumes.reset_state, volume, None, attach_status="bananas", says="bananas")
snapshot = rests(cinder.volume_snapshots, cinder.volume_snapshots.create(volume.id))
for state in ("bananas", "in-use"):
    refused(400, cinder.volume_snapshots.reset_state, snapshot, state, says=state)
cinder.volume_snapshots.delete(snapshot)
goes(cinder.volume_snapshots, snapshot)
consumer = Consumer(attachment["connection_info"]["url"])
consumer.write(8)
cinder.volumes.reset_state(volume, "available", attach_status="detached")
shown = cinder.volumes.get(volume.id)
assert (shown.status, shown.attachments) == ("available", []) and cinder.attachments.list() == [], shown
assert consumer.is_cut_off()
assert qemu_io(attachment["connection_info"]["url"], "read 0 512").returncode != 0
refused(400, cinder.volumes.reset_state, volume, "in-use", says="without an attachment")
attachment = attach(volume)
done(qemu_io(attachment["connection_info"]["url"], "read -P 8 0 4096", "read -P 7 4096 61440"))

# A state that forbids everything is left by force, and by that alone.
cinder.volumes.reset_state(volume, "maintenance")
refused(400, cinder.volumes.detach, volume, says="maintenance")
consumer = Consumer(attachment["connection_info"]["url"])
consumer.write(9)
status, said = ask("POST", f"volumes/{volume.id}/action", {"os-force_detach": {"attachment_id": attachment["id"]}})
assert status == 202, said
assert cinder.volumes.get(volume.id).status == "available" and consumer.is_cut_off()

# No force deletes what somebody has, what is in a group, or what has snapshots; but whatever state it is in.
attachment = attach(volume)
cinder.volumes.reset_state(volume, "error")
refused(400, cinder.volumes.force_delete, volume, says="attached")
refused(400, cinder.volumes.delete, volume, says="attached")
cinder.attachments.delete(attachment["id"])
type_of_group = cinder.group_types.create("t")
group = rests(cinder.groups, cinder.groups.create(type_of_group.id, "limited"))
cinder.volumes.reset_state(volume, "available")
cinder.groups.update(group.id, add_volumes=volume.id)
refused(400, cinder.volumes.force_delete, volume, says=f"in group {group.id}")
taken = rests(cinder.group_snapshots, cinder.group_snapshots.create(group.id))
(part,) = cinder.volume_snapshots.list(search_opts={"volume_id": volume.id})
for deletion in (cinder.volume_snapshots.delete, lambda one: cinder.volume_snapshots.delete(one, force=True)):
    refused(400, deletion, part, says=f"part of group snapshot {taken.id}")
cinder.group_snapshots.delete(taken.id)
goes(cinder.group_snapshots, taken)
cinder.groups.update(group.id, remove_volumes=volume.id)
snapshot = rests(cinder.volume_snapshots, cinder.volume_snapshots.create(volume.id))
refused(400, cinder.volumes.force_delete, volume, says="1 snapshots")
cinder.volume_snapshots.delete(snapshot)
goes(cinder.volume_snapshots, snapshot)
for state in ("error", "creating", "maintenance"):
    one = made()
    cinder.volumes.reset_state(one, state)
    if state != "error":
        refused(400, cinder.volumes.delete, one, says=state)
    cinder.volumes.force_delete(one)
    goes(cinder.volumes, one)
cinder.volumes.delete(volume)
goes(cinder.volumes, volume)
assert cinder.quotas.get("p", usage=True).gigabytes["in_use"] == 0
