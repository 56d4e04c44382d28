"""openstacksdk against a daemon: each operation, with its refusals."""

import subprocess

import openstack
from openstack import exceptions

conn = openstack.connect(load_yaml_config=False, load_envvars=True)
block = conn.block_storage


def refused(status, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except exceptions.HttpException as error:
        assert error.status_code == status, (error.status_code, error)
        return
    raise AssertionError(f"{call} was not refused")


def rests(thing, status="available"):
    # What is known of it may be older than what was asked for.
    thing = thing.fetch(block)
    return block.wait_for_status(thing, status=status, failures=["error"], interval=0.05, wait=60)


def qemu_io(url, command):
    done = subprocess.run(["qemu-io", "-f", "raw", "-c", command, url], capture_output=True, text=True)
    assert done.returncode == 0 and "failed" not in done.stdout, done
    return done.stdout


# Volumes.
volume = rests(block.create_volume(name="db", size=1, description="d", metadata={"a": "b"}))
assert (volume.size, volume.name, volume.description, volume.metadata) == (1, "db", "d", {"a": "b"})
assert volume.volume_type == "__DEFAULT__" and volume.is_bootable is False and not volume.attachments
refused(400, block.create_volume, name="x", size=0)
refused(400, block.create_volume, name="x" * 129, size=1)
refused(404, block.create_volume, name="x", size=1, volume_type="none")
refused(404, block.get_volume, "none")
assert [v.id for v in block.volumes()] == [volume.id]
assert block.find_volume("db").id == volume.id
block.update_volume(volume, name="db2")
block.set_volume_metadata(volume, c="d")
assert block.get_volume(volume.id).metadata == {"a": "b", "c": "d"}
block.delete_volume_metadata(volume, ["c"])
assert block.get_volume(volume.id).metadata == {"a": "b"}
block.extend_volume(volume, 2)
rests(volume)
assert block.get_volume(volume.id).size == 2
refused(400, block.extend_volume, volume, 2)
block.set_volume_bootable_status(volume, True)
assert block.get_volume(volume.id).is_bootable is True

# Attachments, really used: written by an NBD client.
attachment = block.create_attachment(volume.id, instance="11111111-1111-1111-1111-111111111111", connector={"host": "here"})
assert attachment.status == "attaching", attachment
refused(400, block.delete_volume, volume, ignore_missing=False)
block.complete_attachment(attachment)
volume = block.get_volume(volume.id)
assert volume.status == "in-use" and volume.attachments[0]["attachment_id"] == attachment.id
url = block.get_attachment(attachment.id).connection_info["url"]
qemu_io(url, "write -P 7 0 64k")
refused(400, block.create_attachment, volume.id, instance="2", connector={"host": "here"})
snapshot = rests(block.create_snapshot(volume_id=volume.id, name="s", is_forced=True))
backup = block.create_backup(volume_id=volume.id, name="b", force=True)
backup = rests(backup)
rests(volume, "in-use")
qemu_io(url, "write -P 8 0 64k")
block.delete_attachment(attachment.id)
rests(volume)

# The socket of a virtual machine.
attachment = block.create_attachment(volume.id, instance="3", connector={"host": "here", "transport": "vhost-user"})
info = block.get_attachment(attachment.id).connection_info
assert info["driver_volume_type"] == "vhost_user" and info["path"].endswith(".sock"), info
block.delete_attachment(attachment.id)

# Snapshots, and volumes from them.
refused(400, block.delete_volume, volume, ignore_missing=False)
assert [s.id for s in block.snapshots(volume_id=volume.id)] == [snapshot.id]
block.update_snapshot(snapshot, name="s2")
assert block.get_snapshot(snapshot.id).name == "s2"
clone = rests(block.create_volume(name="clone", snapshot_id=snapshot.id, size=3))
qemu_io(url.replace(volume.id, clone.id), "read -P 7 0 64k")
copy = rests(block.create_volume(name="copy", source_volume_id=volume.id, size=2))
qemu_io(url.replace(volume.id, copy.id), "read -P 8 0 64k")
refused(400, block.create_volume, name="x", snapshot_id=snapshot.id, size=1)
block.revert_volume_to_snapshot(volume, snapshot)
rests(volume)
qemu_io(url, "read -P 7 0 64k")
qemu_io(url, "write -P 9 0 64k")

# Backups.
assert (backup.size, backup.volume_id, backup.is_incremental) == (2, volume.id, False)
second = block.create_backup(volume_id=volume.id, name="b2", is_incremental=True)
second = rests(second)
rests(volume)
assert second.is_incremental and block.get_backup(backup.id).has_dependent_backups
refused(400, block.delete_backup, backup, ignore_missing=False)
block.restore_backup(backup, volume=volume.id)
rests(block.get_backup(backup.id))
rests(volume)
qemu_io(url, "read -P 7 0 64k")
refused(400, block.restore_backup, backup, volume=rests(block.create_volume(name="small", size=1)).id)
block.delete_backup(second)
block.wait_for_delete(second, interval=0.05, wait=60)
block.delete_backup(backup)
block.wait_for_delete(backup, interval=0.05, wait=60)

# Types and QoS.
kind = block.create_type(name="gold", description="fast")
block.update_type_extra_specs(kind, volume_backend_name="cairn")
refused(409, block.create_type, name="gold")
assert block.find_type("gold").extra_specs == {"volume_backend_name": "cairn"}
block.retype_volume(copy, "gold", migration_policy="never")
rests(copy)
assert block.get_volume(copy.id).volume_type == "gold"
refused(400, block.delete_type, kind, ignore_missing=False)

# Quotas and limits.
quota = block.get_quota_set("demo", usage=True)
assert quota.volumes == 10 and quota.usage["volumes"] == 4, quota
block.update_quota_set("demo", volumes=4)
refused(413, block.create_volume, name="x", size=1)
assert block.get_limits().absolute.total_volumes_used == 4
block.revert_quota_set("demo")
assert block.get_quota_set("demo").volumes == 10

# Transfers.
transfer = block.create_transfer(volume_id=clone.id, name="t")
assert block.get_volume(clone.id).status == "awaiting-transfer"
refused(400, block.accept_transfer, transfer.id, "wrong")
block.accept_transfer(transfer.id, transfer.auth_key)
rests(clone)

# States by hand, and the end.
block.reset_volume_status(copy, "error", None, None)
assert block.get_volume(copy.id).status == "error"
assert [s.state for s in block.services()] == ["up"] * 3
assert [z.name for z in block.availability_zones()] == ["nova"]
for one in block.volumes():
    block.delete_volume(one, cascade=True)
    block.wait_for_delete(one, interval=0.05, wait=60)
block.delete_type(kind)
assert not list(block.volumes()) and not list(block.snapshots())
assert all(n == 0 for n in block.get_quota_set("demo", usage=True).usage.values())
