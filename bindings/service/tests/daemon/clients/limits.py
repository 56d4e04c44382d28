"""Quotas of each kind, types and where they may be used, what is changed of backups, and what is not served, with python-cinderclient."""

from asking import ask, cinder_of, goes, refused, rests

cinder, other = cinder_of("p"), cinder_of("q")


def made(manager, *words, **more):
    return rests(manager, manager.create(*words, **more))


def limited(call, *words, by, project="p", **more):
    """The call is refused by this limit, and nothing stays reserved. Then there is no limit any more."""
    before = cinder.quotas.get(project, usage=True).to_dict()
    refused(413, call, *words, says=by, **more)
    assert cinder.quotas.get(project, usage=True).to_dict() == before
    cinder.quotas.delete(project)


kind = cinder.volume_types.create("kind")
volume = made(cinder.volumes, 2, name="v", volume_type="kind")
snapshot = made(cinder.volume_snapshots, volume.id)
backup = made(cinder.backups, volume.id, name="b")

# Quotas: the number of volumes, snapshots, backups and groups, their GiB, those of one type, and the size of each.
cinder.quotas.update("p", volumes=1)
limited(cinder.volumes.create, 1, by="volumes")
cinder.quotas.update("p", volumes_kind=1)
limited(cinder.volumes.create, 1, volume_type="kind", by="volumes")
cinder.quotas.update("p", volumes_kind=1)
elsewhere = made(cinder.volumes, 1)
limited(cinder.volumes.retype, elsewhere, "kind", "never", by="volumes")
cinder.quotas.update("p", gigabytes=5)
limited(cinder.volumes.extend, volume, 3, by="gigabytes")
cinder.quotas.update("p", gigabytes_kind=4)
limited(cinder.volumes.create, 1, volume_type="kind", by="gigabytes")
cinder.quotas.update("p", gigabytes_kind=5)
limited(cinder.volume_snapshots.create, volume.id, by="gigabytes")
cinder.quotas.update("p", snapshots=1)
limited(cinder.volume_snapshots.create, volume.id, by="snapshots")
cinder.quotas.update("p", snapshots_kind=1)
limited(cinder.volume_snapshots.create, volume.id, by="snapshots")
cinder.quotas.update("p", per_volume_gigabytes=2)
limited(cinder.volumes.create, 3, by="volumes of 2 GiB each")
cinder.quotas.update("p", per_volume_gigabytes=2)
limited(cinder.volumes.extend, volume, 3, by="volumes of 2 GiB each")
cinder.quotas.update("p", backups=1)
limited(cinder.backups.create, volume.id, by="backups")
cinder.quotas.update("p", backup_gigabytes=3)
limited(cinder.backups.create, volume.id, by="backup_gigabytes")
cinder.quotas.update("p", volumes=2)
limited(cinder.restores.restore, backup.id, by="volumes")
assert cinder.backups.get(backup.id).status == "available"
type_of_group = cinder.group_types.create("t")
cinder.quotas.update("p", groups=0)
limited(cinder.groups.create, type_of_group.id, "kind", by="groups")
transfer = cinder.transfers.create(elsewhere.id)
cinder.quotas.update("q", volumes=0)
limited(other.transfers.accept, transfer.id, transfer.auth_key, by="volumes", project="q")
cinder.quotas.update("q", gigabytes=0)
limited(other.transfers.accept, transfer.id, transfer.auth_key, by="gigabytes", project="q")
assert cinder.volumes.get(elsewhere.id).status == "awaiting-transfer"
cinder.transfers.delete(transfer.id)
for wrong in ({"bananas": 1}, {"volumes": -2}, {"volumes_bananas": 1}, {"volumes": "many"}):
    (key,) = wrong
    refused(400, cinder.quotas.update, "p", says=key, **wrong)
    refused(400, cinder.quota_classes.update, "default", says=key, **wrong)
refused(404, cinder.quota_classes.get, "bananas")
images = "/cairn/v1/quotas/p/images"
assert ask("PATCH", images, {"images": 0})[0] == 200
status, said = ask("POST", "/image/v2/images", {"name": "i", "disk_format": "raw", "container_format": "bare"})
assert status == 413 and "images" in said["overLimit"]["message"], said
assert ask("PATCH", images, {"images": -2})[0] == 400
assert ask("GET", images)[1]["images"] == {"limit": 0, "in_use": 0, "reserved": 0}

# Types. What asks for another back-end than there is is kept nowhere.
refused(400, cinder.volume_types.delete, kind, says="in use")
refused(400, cinder.volume_types.delete, cinder.volume_types.default(), says="default")
refused(400, cinder.volumes.retype, volume, "kind", "never", says="kind already")
refused(404, cinder.volumes.retype, volume, "bananas", "never")
refused(409, cinder.volume_type_access.add_project_access, kind.id, "q")
refused(404, cinder.volume_type_access.list, kind)
private = cinder.volume_types.create("private", is_public=False)
cinder.volume_type_access.add_project_access(private.id, "q")
refused(409, cinder.volume_type_access.add_project_access, private.id, "q")
refused(404, cinder.volume_type_access.remove_project_access, private.id, "p")
backend = cinder.volume_types.create("backend")
for spec in ("volume_backend_name", "capabilities:volume_backend_name"):
    backend.set_keys({spec: "ceph"})
    refused(400, cinder.volumes.create, 1, volume_type="backend", says="ceph")
    refused(400, cinder.volumes.retype, volume, "backend", "never", says="ceph")
    assert cinder.volumes.get(volume.id).volume_type == "kind"
    backend.set_keys({spec: "cairn"})
one = made(cinder.volumes, 1, volume_type="backend")
cinder.volumes.retype(volume, "backend", "never")
assert rests(cinder.volumes, volume).volume_type == "backend"
# What was made before stays, and is copied by name of another type only.
backend.set_keys({"volume_backend_name": "ceph"})
assert cinder.volumes.get(one.id).status == "available"
refused(400, cinder.volumes.create, 1, source_volid=one.id, says="ceph")
refused(400, cinder.restores.restore, backup.id, says="ceph")
copy = made(cinder.volumes, 1, source_volid=one.id, volume_type="kind")
assert copy.volume_type == "kind"
backend.unset_keys(["volume_backend_name"])

# What can be changed of a backup, from 3.9 on.
cinder.backups.update(backup, name="c", description="d")
shown = cinder.backups.get(backup.id)
assert (shown.name, shown.description, shown.metadata) == ("c", "d", {}), shown
assert ask("PUT", f"backups/{backup.id}", {"backup": {"name": "x"}}, version="3.8")[0] == 404
assert ask("PUT", f"backups/{backup.id}", {"backup": {}}, version="3.9")[0] == 400
assert cinder.backups.get(backup.id).name == "c"
for state in ("creating", "restoring", "bananas"):
    refused(400, cinder.backups.reset_state, backup, state, says=state)
child = made(cinder.backups, volume.id, incremental=True)
refused(400, cinder.backups.delete, backup, says=child.id)
smaller = made(cinder.volumes, 1)
refused(400, cinder.restores.restore, backup.id, smaller.id, says="too small")

# What is not served says so, and changes nothing.
refused(501, cinder.volumes.unmanage, volume, says="os-unmanage")
refused(501, cinder.volumes.migrate_volume, volume, "here@cairn#cairn", False, False, says="os-migrate_volume")
refused(501, cinder.volumes.migrate_volume_completion, volume, one, False, says="os-migrate_volume_completion")
refused(501, cinder.volumes.reimage, volume, "11111111-1111-1111-1111-111111111111", says="os-reimage")
refused(404, cinder.volumes.manage, "here@cairn#cairn", {"source-name": "x"})
refused(404, cinder.volumes.list_manageable, "here@cairn#cairn")
refused(400, cinder.volume_snapshots.unmanage, snapshot)
assert cinder.volumes.get(volume.id).status == "available"

# All of it goes, and the counts with it.
for one in (child, backup):
    cinder.backups.delete(one)
    goes(cinder.backups, one)
for one in cinder.volumes.list():
    cinder.volumes.delete(one, cascade=True)
    goes(cinder.volumes, one)
for name, line in cinder.quotas.get("p", usage=True).to_dict().items():
    assert name == "id" or (line["in_use"], line["reserved"]) == (0, 0), (name, line)
for one in (kind, private, backend):
    cinder.volume_types.delete(one)
