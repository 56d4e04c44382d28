"""python-cinderclient against a daemon, without an identity service: each operation, with its refusals."""

from asking import cinder_of, goes, refused, rests

cinder = cinder_of("p")
other = cinder_of("q")

# Volumes, and the older way of attaching.
volume = rests(cinder.volumes, cinder.volumes.create(1, name="v", metadata={"a": "b"}))
assert [v.id for v in cinder.volumes.list()] == [volume.id] and other.volumes.list() == []
assert len(other.volumes.list(search_opts={"all_tenants": 1})) == 1
cinder.volumes.reserve(volume)
refused(400, cinder.volumes.reserve, volume)
info = cinder.volumes.initialize_connection(volume, {"host": "elsewhere"})
assert info["driver_volume_type"] == "nbd" and info["data"]["url"].startswith("nbd://127.0.0.1:"), info
info = cinder.volumes.initialize_connection(volume, {"host": "here"})
assert info["data"]["transport"] == "unix", info
cinder.volumes.attach(volume, "11111111-1111-1111-1111-111111111111", "/dev/vdb")
assert cinder.volumes.get(volume.id).attachments[0]["device"] == "/dev/vdb"
refused(400, cinder.volumes.delete, volume)
cinder.volumes.extend(volume, 2)
rests(cinder.volumes, volume, "in-use")
refused(400, cinder_of("p", "3.41").volumes.extend, volume, 3)
cinder.volumes.begin_detaching(volume)
cinder.volumes.roll_detaching(volume)
cinder.volumes.begin_detaching(volume)
cinder.volumes.terminate_connection(volume, {"host": "here"})
cinder.volumes.detach(volume)
rests(cinder.volumes, volume)
cinder.volumes.update_readonly_flag(volume, True)
assert cinder.volumes.get(volume.id).metadata["readonly"] == "True"
cinder.volumes.update_readonly_flag(volume, False)
cinder.volumes.set_metadata(volume, {"c": "d"})
cinder.volumes.delete_metadata(volume, ["a"])
assert cinder.volumes.get(volume.id).metadata == {"c": "d"}

# Snapshots.
snapshot = rests(cinder.volume_snapshots, cinder.volume_snapshots.create(volume.id, name="s"))
refused(400, cinder_of("p").volumes.delete, volume)
cinder.volume_snapshots.set_metadata(snapshot, {"k": "v"})
assert cinder.volume_snapshots.get(snapshot.id).metadata == {"k": "v"}
cinder.volume_snapshots.reset_state(snapshot, "error")
cinder.volume_snapshots.reset_state(snapshot, "available")

# Types and QoS specs.
kind = cinder.volume_types.create("slow")
refused(409, cinder.volume_types.create, "slow")
qos = cinder.qos_specs.create("limits", {"consumer": "back-end", "total_iops_sec": "500"})
refused(400, cinder.qos_specs.create, "bad", {"consumer": "both", "bananas": "1"})
cinder.qos_specs.associate(qos.id, kind.id)
assert [a.name for a in cinder.qos_specs.get_associations(qos.id)] == ["slow"]
refused(400, cinder.qos_specs.delete, qos)
cinder.qos_specs.set_keys(qos.id, {"read_bytes_sec": "1048576"})
cinder.qos_specs.unset_keys(qos.id, ["read_bytes_sec"])
assert cinder.qos_specs.get(qos.id).specs == {"total_iops_sec": "500"}
cinder.volumes.retype(volume, "slow", "never")
rests(cinder.volumes, volume)
assert cinder.volumes.get(volume.id).volume_type == "slow"
private = cinder.volume_types.create("private", is_public=False)
cinder.volume_type_access.add_project_access(private.id, "p")
assert [a.project_id for a in cinder.volume_type_access.list(private)] == ["p"]
cinder.volume_type_access.remove_project_access(private.id, "p")
assert cinder.volume_types.default().name == "__DEFAULT__"

# Quotas.
cinder.quotas.update("p", volumes=1, snapshots_slow=5)
refused(413, cinder.volumes.create, 1)
usage = cinder.quotas.get("p", usage=True)
assert usage.volumes["in_use"] == 1 and usage.gigabytes["in_use"] == 4, usage
assert usage.snapshots_slow["limit"] == 5 and usage.volumes["reserved"] == 0
cinder.quotas.delete("p")
assert cinder.quotas.get("p").volumes == 10 == cinder.quotas.defaults("p").volumes

# Backups, with their records.
backup = rests(cinder.backups, cinder.backups.create(volume.id, name="b", snapshot_id=snapshot.id))
record = cinder.backups.export_record(backup.id)
refused(400, cinder.backups.import_record, record["backup_service"], record["backup_url"])
restored = cinder.restores.restore(backup.id, name="restored")
rests(cinder.volumes, cinder.volumes.get(restored.volume_id))
rests(cinder.backups, backup)
from_backup = rests(cinder.volumes, cinder.volumes.create(2, backup_id=backup.id))
cinder.backups.reset_state(backup, "error")
cinder.backups.delete(backup)
goes(cinder.backups, backup)

# To another project and back.
transfer = cinder.transfers.create(volume.id, name="t")
refused(400, other.transfers.accept, transfer.id, "wrong")
other.transfers.accept(transfer.id, transfer.auth_key)
assert other.volumes.get(volume.id).status == "available"
assert other.quotas.get("q", usage=True).gigabytes["in_use"] == 4

# What failed is told.
assert cinder.messages.list() == []
summary = cinder.volumes.summary(False)
assert summary["volume-summary"]["total_count"] == 2, summary
assert [s.state for s in cinder.services.list()] == ["up"] * 3
assert cinder.pools.list(detailed=True)[0].QoS_support is True

for client_of, volumes in ((cinder, cinder.volumes.list()), (other, other.volumes.list())):
    for one in volumes:
        client_of.volumes.delete(one, cascade=True)
        goes(client_of.volumes, one)
cinder.qos_specs.disassociate_all(qos.id)
cinder.qos_specs.delete(qos)
cinder.volume_types.delete(kind)
cinder.volume_types.delete(private)
assert [t.name for t in cinder.volume_types.list(is_public=None)] == ["__DEFAULT__"]
