"""What later editions of the interface brought, with python-cinderclient: filters by moments (3.60), default types of projects (3.62), and the names
of filters (3.33)."""

import datetime
import os
import subprocess
import sys
import urllib.parse

from asking import ask, cinder_of, goes, refused, rests

cinder, other = cinder_of("p"), cinder_of("q")


def made(manager, *words, **more):
    return rests(manager, manager.create(*words, **more))


def found(detailed=True, by=cinder, **filters):
    return sorted(volume.name for volume in by.volumes.list(detailed=detailed, search_opts=filters))


# Filters by moments, in both lists of volumes, in each edition that has them.
volumes = [made(cinder.volumes, 1, name=name) for name in "abc"]
first, second, third = (volume.created_at for volume in volumes)
assert first < second < third
for detailed in (True, False):
    for by in (cinder, cinder_of("p", "3.60")):
        for wanted, names in (
            (f"gt:{second}", "c"),
            (f"gte:{second}", "bc"),
            (f"eq:{second}", "b"),
            (f"neq:{second}", "ac"),
            (f"lt:{second}", "a"),
            (f"lte:{second}", "ab"),
            (f"gt:{first},lt:{third}", "b"),
            (f"gte:{first},lte:{third},neq:{second}", "ac"),
            (f"lt:{first},gt:{third}", ""),
        ):
            assert found(detailed, by, created_at=wanted) == list(names), (wanted, detailed)
# The same moment in another zone, and as Python writes it.
moment = datetime.datetime.fromisoformat(second).replace(tzinfo=datetime.timezone.utc)
east = moment.astimezone(datetime.timezone(datetime.timedelta(hours=5, minutes=30)))
for written in (east.isoformat(), str(east), second + "Z"):
    assert found(created_at=f"eq:{written}") == ["b"], written
# With other filters, with pages, and counted.
assert found(created_at=f"gte:{second}", name="c") == ["c"] and found(created_at=f"gt:{third}", name="c") == []
query = urllib.parse.urlencode({"created_at": f"gte:{first},lte:{second}", "limit": 1, "with_count": True})
page = ask("GET", f"volumes/detail?{query}")[1]
assert [volume["name"] for volume in page["volumes"]] == ["b"] and page["count"] == 2, page
(link,) = page["volumes_links"]
page = ask("GET", link["href"].partition("/v3/p/")[2])[1]
assert [volume["name"] for volume in page["volumes"]] == ["a"] and "volumes_links" not in page, page
# When they were changed.
cinder.volumes.update(volumes[0], description="d")
changed = cinder.volumes.get(volumes[0].id).updated_at
assert found(updated_at=f"gte:{changed}") == ["a"] == found(updated_at=f"eq:{changed}")
assert "a" not in found(updated_at=f"lt:{changed}") and found(updated_at=f"gt:{changed}") == []
assert found(updated_at=f"gte:{changed}", created_at=f"gt:{first}") == []
# What cannot be read is refused, by its key. Before, the keys mean nothing.
for key in ("created_at", "updated_at"):
    for wrong in ("after:2026-11-22", "2026-11-22T07:00:00", "gt:soon", "gt:", f"gt:{first},", f"gt:{first},before:{third}"):
        refused(400, cinder.volumes.list, search_opts={key: wrong}, says=key)
        refused(400, cinder.volumes.list, detailed=False, search_opts={key: wrong}, says=key)
        assert found(by=cinder_of("p", "3.59"), **{key: wrong}) == ["a", "b", "c"]
    assert found(by=cinder_of("p", "3.59"), **{key: f"lt:{first}"}) == ["a", "b", "c"]
    assert found(by=cinder_of("p", "3.0"), **{key: f"lt:{first}"}) == ["a", "b", "c"]

# What each list can be narrowed by. A value that nothing has leaves nothing, so each of them is looked at.
volume = volumes[2]
snapshot = made(cinder.volume_snapshots, volume.id, name="s")
backup = made(cinder.backups, volume.id, name="b")
type_of_group = cinder.group_types.create("g")
group = made(cinder.groups, type_of_group.id, "__DEFAULT__", name="g")
made(cinder.volumes, 1, name="grouped", group_id=group.id)
taken = made(cinder.group_snapshots, group.id, name="gs")
attachment = cinder.attachments.create(volumes[0].id, {}, "11111111-1111-1111-1111-111111111111", "null")
lists = {one.resource: one.filters for one in cinder.resource_filters.list()}
paths = {
    "volume": "volumes",
    "snapshot": "snapshots",
    "backup": "backups",
    "group": "groups",
    "group_snapshot": "group_snapshots",
    "attachment": "attachments",
    "volume_type": "types",
}
assert set(lists) == {*paths, "message", "pool"} and lists["pool"] == [], lists
assert {"name", "name~", "status", "metadata", "size", "created_at", "updated_at"} <= set(lists["volume"]), lists
NOTHING = {
    "created_at": "gt:2999-01-01",
    "updated_at": "gt:2999-01-01",
    "metadata": "{'nobody': 'has it'}",
    "glance_metadata": "{'nobody': 'has it'}",
    "bootable": "true",
    "multiattach": "true",
    "consumes_quota": "false",
    "is_public": "false",
}
for resource, path in paths.items():
    (whole,) = ask("GET", path)[1].values()
    assert whole and lists[resource], resource
    for key in lists[resource]:
        query = urllib.parse.urlencode({key: NOTHING.get(key, "nothing")})
        assert ask("GET", f"{path}?{query}") == (200, {path if resource != "volume_type" else "volume_types": []}), (path, key)
    # One that is not known is not passed over: who deletes what was listed would delete everything.
    if resource != "volume_type":
        code, told = ask("GET", f"{path}?shoe_size=44")
        assert code == 400 and "shoe_size" in told["badRequest"]["message"], (path, code, told)
for path in ("volumes", "volumes/detail", "snapshots", "backups"):
    (whole,), (again,) = (ask("GET", f"{path}{query}", version="3.30")[1].values() for query in ("", "?shoe_size=44"))
    assert whole and len(again) == len(whole), path
# Texts with quotes, as Python writes them.
cinder.volumes.set_metadata(volume, {"note": "it's"})
assert found(metadata={"note": "it's"}) == [volume.name] and found(metadata={"note": "its"}) == []
# A project, for administrators: theirs, or with all of them in sight.
assert found(project_id="p") and found(project_id="q") == [] == found(project_id="q", all_tenants=True)
assert found(project_id="p", all_tenants=True) == found()
many = ",".join(["lt:2999-01-01"] * 17)
refused(400, cinder.volumes.list, search_opts={"created_at": many}, says="created_at")
assert found(created_at=many.partition(",")[2]) == found()
# The same list in all editions that have it; one of them; one that is not there.
assert [(one.resource, one.filters) for one in cinder_of("p", "3.33").resource_filters.list("volume")] == [("volume", lists["volume"])]
assert cinder.resource_filters.list("bananas") == []
assert ask("GET", "resource_filters", version="3.32")[0] == 404
assert ask("GET", "resource_filters")[1] == {"resource_filters": [{"resource": key, "filters": lists[key]} for key in lists]}
cinder.attachments.delete(attachment["id"] if isinstance(attachment, dict) else attachment.id)
cinder.group_snapshots.delete(taken)
goes(cinder.group_snapshots, taken)
cinder.groups.delete(group, delete_volumes=True)
goes(cinder.groups, group)

# Default types of projects.
gold = cinder.volume_types.create("gold")
assert cinder.default_types.list() == []
refused(404, cinder.default_types.list, "p", says="p")
for version in ("3.62", "3.71"):
    client = cinder_of("p", version)
    default = client.default_types.create("gold", "p")
    assert default._info == {"project_id": "p", "volume_type_id": gold.id}, default
    assert client.default_types.list("p")._info == default._info
    assert [one._info for one in client.default_types.list()] == [default._info]
    client.default_types.delete("p")
    client.default_types.delete("p")
    refused(404, client.default_types.list, "p", says="Default type for project p")
default = cinder.default_types.create(gold.id, "p")
assert default.volume_type_id == gold.id
usual = made(cinder.volumes, 1, name="usual")
assert usual.volume_type == "gold" and made(cinder_of("p", "3.0").volumes, 1).volume_type == "gold"
assert made(other.volumes, 1).volume_type == "__DEFAULT__"
assert made(cinder.volumes, 1, volume_type="__DEFAULT__").volume_type == "__DEFAULT__"
assert made(cinder.volumes, 1, source_volid=volume.id).volume_type == "__DEFAULT__"
assert made(cinder.volumes, 1, snapshot_id=snapshot.id).volume_type == "__DEFAULT__"
assert (cinder.volume_types.default().name, other.volume_types.default().name) == ("gold", "__DEFAULT__")
# A backup whose volume is gone comes back as what names no type.
cinder.volumes.delete(volume, cascade=True)
goes(cinder.volumes, volume)
restored = cinder.restores.restore(backup.id, name="restored")
rests(cinder.volumes, cinder.volumes.get(restored.volume_id))
assert cinder.volumes.get(restored.volume_id).volume_type == "gold"
# A default is not deleted; then its volumes keep it.
other.default_types.create("gold", "q")
refused(400, cinder.volume_types.delete, gold, says="of project p and of others")
cinder.default_types.create("__DEFAULT__", "p")
refused(400, cinder.volume_types.delete, gold, says="of project q")
other.default_types.delete("q")
refused(400, cinder.volume_types.delete, gold, says="in use")
assert made(cinder.volumes, 1).volume_type == "__DEFAULT__"
# What is wrong changes nothing.
refused(400, cinder.default_types.create, "bananas", "p", says="bananas")
for body in ({}, {"default_type": {}}, {"default_type": {"volume_type": None}}, {"default_type": {"volume_type": "gold", "x": 1}}):
    assert ask("PUT", "default-types/p", body)[0] == 400, body
assert [one.project_id for one in cinder.default_types.list()] == ["p"]
cinder.default_types.delete("p")
# With and without the project in the path, from its edition on; the rest of the interface needs it until 3.67.
for version, code in (("3.61", 404), ("3.62", 200), ("3.67", 200)):
    for path in ("default-types", "/v3/default-types", "/v3/default-types/"):
        assert ask("GET", path, version=version)[0] == code, (path, version)
    assert ask("PUT", "/v3/default-types/p", {"default_type": {"volume_type": "gold"}}, version)[0] == code
    assert ask("DELETE", "/v3/default-types/p", version=version)[0] == (204 if code == 200 else 404)
    assert ask("GET", "/v3/volumes", version=version)[0] == (200 if version == "3.67" else 404)
assert cinder.default_types.list() == []


def cinder_command(*words):
    command = os.path.join(os.path.dirname(sys.executable), "cinder")
    done = subprocess.run([command, *words], capture_output=True, text=True)
    assert done.returncode == 0, (words, done)
    return done.stdout


# The command of Cinder.
assert gold.id in cinder_command("default-type-set", "gold", "demo")
assert gold.id in cinder_command("default-type-list") and gold.id in cinder_command("default-type-list", "--project-id", "demo")
assert "unset successfully" in cinder_command("default-type-unset", "demo")
assert cinder.default_types.list() == []
assert "updated_at" in cinder_command("list-filters", "--resource", "volume")
listed = cinder_command("list", "--all-tenants", "--filters", f"created_at=lte:{second}")
assert volumes[0].id in listed and volumes[1].id in listed and usual.id not in listed, listed

# All of it goes.
cinder.backups.delete(backup)
goes(cinder.backups, backup)
for client in (cinder, other):
    for one in client.volumes.list():
        client.volumes.delete(one, cascade=True)
        goes(client.volumes, one)
cinder.volume_types.delete(gold)
