"""The record of a backup, with python-cinderclient: `export` says it, `import` takes it in at a service that knows nothing of the backup and
restores it. Its last line is JSON for whoever runs it."""

import json
import sys

from asking import cinder_of, refused, rests

cinder, other = cinder_of("p"), cinder_of("q")
(_, deed, given) = sys.argv


def exported():
    backup = rests(cinder.backups, cinder.backups.create(given, name="kept", description="d", metadata={"a": "b"}))
    child = rests(cinder.backups, cinder.backups.create(given, incremental=True))
    records = [cinder.backups.export_record(one.id) for one in (backup, child)]
    assert all(set(record) == {"backup_service", "backup_url"} for record in records), records
    refused(404, cinder.backups.export_record, "11111111-1111-1111-1111-111111111111")
    for record in records:
        refused(400, cinder.backups.import_record, record["backup_service"], record["backup_url"], says="exists")
    return {"records": records, "ids": [backup.id, child.id]}


def imported():
    told = json.loads(given)
    assert cinder.backups.list() == [] and cinder.volumes.list() == []
    (service, url), (_, url_of_child) = ((one["backup_service"], one["backup_url"]) for one in told["records"])
    refused(400, cinder.backups.import_record, "cinder.backup.drivers.ceph.CephBackupDriver", url, says="cairn")
    for broken in ("", "bananas", url[:-8], url[8:], "e30="):
        refused(400, cinder.backups.import_record, service, broken)
    assert cinder.quotas.get("p", usage=True).backups["in_use"] == 0
    cinder.quotas.update("p", backups=0)
    refused(413, cinder.backups.import_record, service, url, says="backups")
    cinder.quotas.delete("p")
    made = [cinder.backups.import_record(service, one) for one in (url, url_of_child)]
    ids = [one["id"] for one in made]
    assert ids == told["ids"], (ids, told)
    backup, child = (rests(cinder.backups, cinder.backups.get(id)) for id in ids)
    assert (backup.name, backup.description, backup.metadata, backup.size) == ("kept", "d", {"a": "b"}, 1), backup
    assert (backup.is_incremental, child.is_incremental, backup.has_dependent_backups) == (False, True, True)
    refused(400, cinder.backups.delete, backup, says=child.id)
    used = cinder.quotas.get("p", usage=True)
    assert (used.backups["in_use"], used.backup_gigabytes["in_use"], used.backups["reserved"]) == (2, 2, 0), used
    refused(400, cinder.backups.import_record, service, url, says="exists")
    volumes = []
    for one in (backup, child):
        restored = cinder.restores.restore(one.id)
        assert (cinder.volumes.get(restored.volume_id).status, cinder.backups.get(one.id).status) in [
            ("restoring-backup", "restoring"),
            ("available", "available"),
        ]
        rests(cinder.volumes, cinder.volumes.get(restored.volume_id))
        rests(cinder.backups, one)
        volumes.append(restored.volume_id)
    return {"volumes": volumes}


print(json.dumps({"export": exported, "import": imported}[deed]()))
