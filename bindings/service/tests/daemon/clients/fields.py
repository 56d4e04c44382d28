"""Which fields objects have in which edition of the interface, for administrators: no more and no fewer, whatever clients make of them."""

from asking import ask, cinder_of, rests

EDITIONS = ["3.0", "3.50", "3.71"]
cinder = cinder_of("p")


def answer(path, version, *, method="GET", body=None, code=200):
    status, found = ask(method, path, body, version=version)
    assert status == code, (path, version, status, found)
    return found


def same(found, wanted, what):
    assert set(found) == wanted, (what, "too many", set(found) - wanted, "missing", wanted - set(found))


def check(path, key, first, *later):
    """What the path answers has the key, with an object or a list of them. The fields are those of each edition and of all before it; none: the
    edition does not have the object."""
    fields = set()
    for version, more in zip(EDITIONS, [first, *later, *[""] * 2]):
        if more is None:
            answer(path, version, code=404)
            continue
        fields |= set(more.split())
        found = answer(path, version)
        assert list(found) == [key], (path, version, found)
        each = found[key] if isinstance(found[key], list) else [found[key]]
        assert each, (path, version)
        for one in each:
            same(one, fields, (path, version))


volume = rests(cinder.volumes, cinder.volumes.create(1, name="v", metadata={"a": "b"}))
snapshot = rests(cinder.volume_snapshots, cinder.volume_snapshots.create(volume.id, name="s"))
backup = rests(cinder.backups, cinder.backups.create(volume.id, name="b"))

# Volumes.
PLAIN = """id name links status size availability_zone created_at updated_at attachments description volume_type snapshot_id source_volid
    metadata user_id bootable encrypted replication_status consistencygroup_id multiattach migration_status"""
WHERE = "os-vol-tenant-attr:tenant_id os-vol-host-attr:host os-vol-mig-status-attr:migstat os-vol-mig-status-attr:name_id"
FROM_50 = "group_id provider_id service_uuid shared_targets"
FROM_71 = "cluster_name volume_type_id consumes_quota"
for path, key in ((f"volumes/{volume.id}", "volume"), ("volumes/detail", "volumes")):
    check(path, key, PLAIN + " " + WHERE, FROM_50, FROM_71)
check("volumes", "volumes", "id name links")
made = answer("volumes", "3.0", method="POST", body={"volume": {"size": 1}}, code=202)["volume"]
same(made, set(PLAIN.split()), "a creation")
changed = answer(f"volumes/{volume.id}", "3.50", method="PUT", body={"volume": {"description": "d"}})["volume"]
same(changed, set((PLAIN + " " + FROM_50).split()), "a change")
same(answer("volumes/summary", "3.71")["volume-summary"], {"total_size", "total_count", "metadata"}, "a summary")
# Two fields are there only when they have something to say.
restored = rests(cinder.volumes, cinder.volumes.create(1, backup_id=backup.id))
cinder.volumes.set_image_metadata(volume, {"os_distro": "debian"})
for version, from_backup in zip(EDITIONS, (set(), {"backup_id"}, {"backup_id"})):
    of = [set(answer(f"volumes/{id}", version)["volume"]) for id in (restored.id, volume.id)]
    assert of[0] - of[1] == from_backup and of[1] - of[0] == {"volume_image_metadata"}, (version, of)

# Snapshots and backups.
PLAIN = "id name description volume_id status size created_at updated_at metadata"
EXTENDED = "os-extended-snapshot-attributes:project_id os-extended-snapshot-attributes:progress"
for path, key in ((f"snapshots/{snapshot.id}", "snapshot"), ("snapshots/detail", "snapshots")):
    check(path, key, PLAIN + " " + EXTENDED, "group_snapshot_id user_id", "consumes_quota")
check("snapshots", "snapshots", PLAIN, "group_snapshot_id user_id", "consumes_quota")
FIELDS = """id name description status size object_count volume_id snapshot_id container availability_zone created_at updated_at
    data_timestamp fail_reason is_incremental has_dependent_backups links"""
for path, key in ((f"backups/{backup.id}", "backup"), ("backups/detail", "backups")):
    # Nothing of keys of encryption: there are none.
    check(path, key, FIELDS, "os-backup-project-attr:project_id metadata", "user_id")
check("backups", "backups", "id name links")
check(f"backups/{backup.id}/export_record", "backup-record", "backup_service backup_url")
body = {"restore": {"volume_id": restored.id}}
same(
    answer(f"backups/{backup.id}/restore", "3.0", method="POST", body=body, code=202)["restore"],
    {"backup_id", "volume_id", "volume_name"},
    "a restore",
)
rests(cinder.volumes, restored)

# Attachments, and what volumes say of them.
body = {"attachment": {"volume_uuid": restored.id, "instance_uuid": "1", "connector": {"host": "here"}}}
attachment = answer("attachments", "3.27", method="POST", body=body)["attachment"]
PLAIN = "id status instance volume_id"
MORE = "attached_at detached_at attach_mode connection_info"
for path, key in ((f"attachments/{attachment['id']}", "attachment"), ("attachments/detail", "attachments")):
    check(path, key, None, PLAIN + " " + MORE)
check("attachments", "attachments", None, PLAIN)
for version in EDITIONS:
    (told,) = answer(f"volumes/{restored.id}", version)["volume"]["attachments"]
    same(told, set("id attachment_id volume_id server_id host_name device attached_at".split()), version)

# Transfers.
rests(cinder.volumes, cinder.volumes.get(made["id"]))
transfer = answer("volume-transfers", "3.0", method="POST", body={"transfer": {"volume_id": made["id"]}}, code=202)["transfer"]
PLAIN = "id name volume_id links"
same(transfer, {*PLAIN.split(), "created_at", "auth_key"}, "an offer")
for base in ("volume-transfers", "os-volume-transfer"):
    check(base, "transfers", PLAIN)
    for path, key in ((f"{base}/{transfer['id']}", "transfer"), (f"{base}/detail", "transfers")):
        check(path, key, PLAIN + " created_at", "", "no_snapshots source_project_id destination_project_id accepted")

# Types, QoS specs, quotas.
kind = cinder.volume_types.create("kind")
private = cinder.volume_types.create("private", is_public=False)
cinder.volume_type_access.add_project_access(private.id, "p")
qos = cinder.qos_specs.create("limits", {"consumer": "both", "total_iops_sec": "500"})
cinder.qos_specs.associate(qos.id, kind.id)
FIELDS = "id name description is_public os-volume-type-access:is_public extra_specs qos_specs_id"
for path, key in ((f"types/{kind.id}", "volume_type"), ("types/default", "volume_type"), ("types", "volume_types")):
    check(path, key, FIELDS)
check(f"types/{private.id}/os-volume-type-access", "volume_type_access", "volume_type_id project_id")
cinder.default_types.create("kind", "p")
for path, key in (("default-types/p", "default_type"), ("default-types", "default_types")):
    check(path, key, None, None, "project_id volume_type_id")
cinder.default_types.delete("p")
check("qos-specs", "qos_specs", "id name consumer specs")
for version in EDITIONS:
    found = answer(f"qos-specs/{qos.id}", version)
    assert set(found) == {"qos_specs", "links"} and set(found["qos_specs"]) == {"id", "name", "consumer", "specs"}, found
check(f"qos-specs/{qos.id}/associations", "qos_associations", "association_type name id")
LIMITS = "id volumes snapshots gigabytes backups backup_gigabytes groups per_volume_gigabytes"
for name in ("__DEFAULT__", "kind", "private"):
    LIMITS += f" volumes_{name} gigabytes_{name} snapshots_{name}"
for path, key in (
    ("os-quota-sets/p", "quota_set"),
    ("os-quota-sets/p/defaults", "quota_set"),
    ("os-quota-class-sets/default", "quota_class_set"),
):
    check(path, key, LIMITS)
for name, line in answer("os-quota-sets/p?usage=true", "3.0")["quota_set"].items():
    assert name == "id" or set(line) == {"limit", "in_use", "reserved", "allocated"}, (name, line)

# Groups.
type_of_group = cinder.group_types.create("g")
group = rests(cinder.groups, cinder.groups.create(type_of_group.id, "kind", name="g"))
FIELDS = "id name description is_public group_specs"
check(f"group_types/{type_of_group.id}", "group_type", None, FIELDS)
check("group_types", "group_types", None, FIELDS)
FIELDS = "id name description status availability_zone created_at group_type volume_types group_snapshot_id source_group_id replication_status"
for path, key in ((f"groups/{group.id}", "group"), ("groups/detail", "groups")):
    check(path, key, None, FIELDS, "project_id")
    check(path + "?list_volume=true", key, None, FIELDS + " volumes", "project_id")
check("groups", "groups", None, "id name")
member = rests(cinder.volumes, cinder.volumes.create(1, volume_type="kind", group_id=group.id))
taken = rests(cinder.group_snapshots, cinder.group_snapshots.create(group.id, name="gs"))
for path, key in ((f"group_snapshots/{taken.id}", "group_snapshot"), ("group_snapshots/detail", "group_snapshots")):
    check(path, key, None, "id name description group_id group_type_id status created_at", "project_id")
check("group_snapshots", "group_snapshots", None, "id name group_type_id")

# The service itself.
check("os-services", "services", "binary host zone status state updated_at disabled_reason")
check("os-availability-zone", "availabilityZoneInfo", "zoneName zoneState")
check("scheduler-stats/get_pools", "pools", "name")
check("scheduler-stats/get_pools?detail=true", "pools", "name capabilities")
check("limits", "limits", "rate absolute")
check("resource_filters", "resource_filters", None, "resource filters")
