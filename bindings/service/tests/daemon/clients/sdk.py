"""openstacksdk against a daemon: each operation, with its refusals."""

import subprocess

import openstack
from openstack import exceptions

conn = openstack.connect(load_yaml_config=False, load_envvars=True)
block = conn.block_storage


def refused(status, call, *args, says="", **kwargs):
    try:
        call(*args, **kwargs)
    except exceptions.HttpException as error:
        assert error.status_code == status and says in error.details, (error.status_code, error.details)
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


def cannot_open(url):
    done = subprocess.run(["qemu-io", "-f", "raw", "-c", "read 0 4k", url], capture_output=True, text=True)
    assert done.returncode != 0 and ("offered" in done.stderr or "not available" in done.stderr), done


def attached_io(volume, command):
    """By a consumer of its own: nobody else can open it."""
    attachment = block.create_attachment(volume, instance="reader", connector={"host": "here"})
    qemu_io(block.get_attachment(attachment.id).connection_info["url"], command)
    block.delete_attachment(attachment.id)


# Volumes.
volume = rests(block.create_volume(name="db", size=1, description="d", metadata={"a": "b"}))
assert (volume.size, volume.name, volume.description, volume.metadata) == (1, "db", "d", {"a": "b"})
assert volume.volume_type == "__DEFAULT__" and volume.is_bootable is False and not volume.attachments
refused(400, block.create_volume, name="x", size=0)
refused(400, block.create_volume, name="x", size=65_537, says="65536")
refused(400, block.create_volume, name="x" * 129, size=1, says="128")
refused(404, block.create_volume, name="x", size=1, volume_type="none")
refused(404, block.get_volume, "none")
assert [v.id for v in block.volumes()] == [volume.id]
assert block.find_volume("db").id == volume.id
refused(400, block.update_volume, volume, name="x" * 129, says="128")
block.update_volume(volume, name="x" * 128)
assert block.get_volume(volume.id).name == "x" * 128
block.update_volume(volume, name="db2")
block.set_volume_metadata(volume, c="d")
assert block.get_volume(volume.id).metadata == {"a": "b", "c": "d"}
block.delete_volume_metadata(volume, ["c"])
assert block.get_volume(volume.id).metadata == {"a": "b"}
block.extend_volume(volume, 2)
rests(volume)
assert block.get_volume(volume.id).size == 2
refused(400, block.extend_volume, volume, 2, says="2 GiB, it has 2")
block.set_volume_bootable_status(volume, True)
assert block.get_volume(volume.id).is_bootable is True

# Attachments, really used: written by an NBD client.
attachment = block.create_attachment(volume.id, instance="11111111-1111-1111-1111-111111111111", connector={"host": "here"})
assert attachment.status == "attaching", attachment
refused(400, block.delete_volume, volume, ignore_missing=False, says="status is attaching, and must be available")
block.complete_attachment(attachment)
volume = block.get_volume(volume.id)
assert volume.status == "in-use" and volume.attachments[0]["attachment_id"] == attachment.id
url = block.get_attachment(attachment.id).connection_info["url"]
qemu_io(url, "write -P 7 0 64k")
refused(400, block.create_attachment, volume.id, instance="2", connector={"host": "here"}, says="in-use and not multiattach")
refused(400, block.create_backup, volume_id=volume.id, name="b", says="backing it up takes force")
snapshot = rests(block.create_snapshot(volume_id=volume.id, name="s", is_forced=True))
backup = block.create_backup(volume_id=volume.id, name="b", force=True)
backup = rests(backup)
rests(volume, "in-use")
qemu_io(url, "write -P 8 0 64k")
block.delete_attachment(attachment.id)
rests(volume)
cannot_open(url)

# The socket of a virtual machine.
attachment = block.create_attachment(volume.id, instance="3", connector={"host": "here", "transport": "vhost-user"})
info = block.get_attachment(attachment.id).connection_info
assert info["driver_volume_type"] == "vhost_user" and info["path"].endswith(".sock"), info
block.delete_attachment(attachment.id)

# Snapshots, and volumes from them.
refused(400, block.delete_volume, volume, ignore_missing=False, says="has 1 snapshots")
assert [s.id for s in block.snapshots(volume_id=volume.id)] == [snapshot.id]
block.update_snapshot(snapshot, name="s2")
assert block.get_snapshot(snapshot.id).name == "s2"
clone = rests(block.create_volume(name="clone", snapshot_id=snapshot.id, size=3))
cannot_open(url.replace(volume.id, clone.id))
attached_io(clone.id, "read -P 7 0 64k")
copy = rests(block.create_volume(name="copy", source_volume_id=volume.id, size=2))
attached_io(copy.id, "read -P 8 0 64k")
refused(400, block.create_volume, name="x", snapshot_id=snapshot.id, size=1, says="it cannot be smaller")
for more in [dict(source_volume_id=volume.id), dict(backup_id=backup.id), dict(image_id="11111111-1111-1111-1111-111111111111")]:
    refused(400, block.create_volume, name="x", size=2, snapshot_id=snapshot.id, says="name one source at most", **more)

# Back to the latest snapshot, and to no other.
block.revert_volume_to_snapshot(volume, snapshot)
rests(volume)
attached_io(volume.id, "read -P 7 0 64k")
attached_io(volume.id, "write -P 9 0 64k")
later = rests(block.create_snapshot(volume_id=volume.id, name="later"))
refused(400, block.revert_volume_to_snapshot, volume, snapshot, says="only the latest snapshot")
refused(404, block.revert_volume_to_snapshot, volume, "11111111-1111-1111-1111-111111111111")
attachment = block.create_attachment(volume.id, instance="1", connector={"host": "here"})
refused(409, block.revert_volume_to_snapshot, volume, later, says="status is attaching, and must be available to be reverted")
block.complete_attachment(attachment)
refused(409, block.revert_volume_to_snapshot, volume, later, says="status is in-use, and must be available to be reverted")
qemu_io(block.get_attachment(attachment.id).connection_info["url"], "write -P 10 0 64k")
block.delete_attachment(attachment.id)
rests(volume)
block.revert_volume_to_snapshot(volume, later)
rests(volume)
rests(later)
attached_io(volume.id, "read -P 9 0 64k")
refused(400, block.revert_volume_to_snapshot, clone, later, says="is of another volume")
of_copy = rests(block.create_snapshot(volume_id=copy.id, name="of copy"))
block.extend_volume(copy, 3)
rests(copy)
refused(400, block.revert_volume_to_snapshot, copy, of_copy, says="the volume has 3 GiB, its snapshot 2: it was extended since")
for one in [later, of_copy]:
    block.delete_snapshot(one)
    block.wait_for_delete(one, interval=0.05, wait=60)

# Backups.
assert (backup.size, backup.volume_id, backup.is_incremental) == (2, volume.id, False)
second = block.create_backup(volume_id=volume.id, name="b2", is_incremental=True)
second = rests(second)
rests(volume)
assert second.is_incremental and block.get_backup(backup.id).has_dependent_backups
refused(400, block.delete_backup, backup, ignore_missing=False, says=f"incremental backups exist for this backup: {second.id}")
refused(400, block.reset_backup_status, backup, "creating", says="none that can be set")
refused(400, block.restore_backup, backup, volume=copy.id, name="x" * 129, says="128")
block.restore_backup(backup, volume=volume.id)
rests(block.get_backup(backup.id))
rests(volume)
attached_io(volume.id, "read -P 7 0 64k")
small = rests(block.create_volume(name="small", size=1))
refused(400, block.restore_backup, backup, volume=small.id, says="has 1 GiB: too small for a backup of 2 GiB")
attachment = block.create_attachment(volume.id, instance="1", connector={"host": "here"})
refused(400, block.restore_backup, backup, volume=volume.id, says="status is attaching, and must be available to be restored")
assert block.get_backup(backup.id).status == "available"
block.delete_attachment(attachment.id)
rests(volume)
block.delete_backup(second)
block.wait_for_delete(second, interval=0.05, wait=60)
block.delete_backup(backup)
block.wait_for_delete(backup, interval=0.05, wait=60)

# Types and QoS.
kind = block.create_type(name="gold", description="fast")
block.update_type_extra_specs(kind, volume_backend_name="cairn")
refused(409, block.create_type, name="gold", says="already exists")
assert block.find_type("gold").extra_specs == {"volume_backend_name": "cairn"}
block.retype_volume(copy, "gold", migration_policy="never")
rests(copy)
assert block.get_volume(copy.id).volume_type == "gold"
refused(400, block.retype_volume, copy, "gold", migration_policy="never", says="of type gold already")
refused(400, block.delete_type, kind, ignore_missing=False, says="still in use")

# The type of what names none.
default = block.set_default_type("demo", kind)
assert (default.project_id, default.volume_type_id) == ("demo", kind.id), default
assert [(d.project_id, d.volume_type_id) for d in block.default_types()] == [("demo", kind.id)]
assert block.show_default_type("demo").volume_type_id == kind.id
usual = rests(block.create_volume(size=1))
assert usual.volume_type == kind.name, usual
block.delete_volume(usual)
block.wait_for_delete(usual, interval=0.05, wait=60)
refused(400, block.delete_type, kind, ignore_missing=False, says="it is that of project demo")
refused(400, block.set_default_type, "demo", "bananas", says="bananas")
block.unset_default_type("demo")
refused(404, block.show_default_type, "demo", says="demo")
filters = {one.resource: one.filters for one in block.resource_filters()}
assert "name~" in filters["backup"] and len(filters) == 9, filters

# Quotas and limits.
quota = block.get_quota_set("demo", usage=True)
assert quota.volumes == 10 and quota.usage["volumes"] == 4, quota
block.update_quota_set("demo", volumes=4)
refused(413, block.create_volume, name="x", size=1, says="wanted 1, limit 4, in use 4")
assert block.get_limits().absolute.total_volumes_used == 4
block.revert_quota_set("demo")
assert block.get_quota_set("demo").volumes == 10

# Transfers.
transfer = block.create_transfer(volume_id=clone.id, name="t")
assert block.get_volume(clone.id).status == "awaiting-transfer"
refused(400, block.delete_volume, clone, ignore_missing=False, says="status is awaiting-transfer")
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
