"""Groups, their types and their snapshots: with python-cinderclient, openstacksdk and the command `cinder`."""

import os
import subprocess
import sys
import time

import openstack
from cinderclient import client, exceptions
from cinderclient.contrib import noauth
from keystoneauth1 import session
from openstack import exceptions as sdk_exceptions


def cinder_of(project, version="3.71"):
    auth = noauth.CinderNoAuthPlugin("me", project, endpoint=os.environ["CINDER_ENDPOINT"])
    return client.Client(version, session=session.Session(auth=auth))


cinder = cinder_of("demo")
other = cinder_of("q")
conn = openstack.connect(load_yaml_config=False, load_envvars=True)
block = conn.block_storage


def refused(code, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except exceptions.ClientException as error:
        assert error.code == code, error
        return
    except sdk_exceptions.HttpException as error:
        assert error.status_code == code, (error.status_code, error)
        return
    raise AssertionError(f"{call} was not refused")


def rests(manager, thing, status="available"):
    for _ in range(2000):
        thing = manager.get(thing if isinstance(thing, str) else thing.id)
        if thing.status == status:
            return thing
        assert not thing.status.startswith("error"), thing.status
        time.sleep(0.05)
    raise AssertionError(f"{thing.id} stays {thing.status}")


def goes(manager, thing):
    for _ in range(2000):
        try:
            manager.get(thing.id)
        except exceptions.NotFound:
            return
        time.sleep(0.05)
    raise AssertionError(f"{thing.id} stays")


def qemu_io(url, command):
    done = subprocess.run(["qemu-io", "-f", "raw", "-c", command, url], capture_output=True, text=True)
    assert done.returncode == 0 and "failed" not in done.stdout, done


def attached_io(volume, command):
    """By a consumer of its own: nobody else can open it."""
    attachment = block.create_attachment(volume, instance="reader", connector={"host": "here"})
    qemu_io(block.get_attachment(attachment.id).connection_info["url"], command)
    block.delete_attachment(attachment.id)


# Types of groups.
assert cinder.group_types.default().name == "default_group_type"
kind = cinder.group_types.create("together", "d")
refused(409, cinder.group_types.create, "together")
kind.set_keys({"consistent_group_snapshot_enabled": "<is> True", "x": "y"})
assert kind.get_keys() == {"consistent_group_snapshot_enabled": "<is> True", "x": "y"}
kind.unset_keys(["x"])
assert cinder.group_types.get(kind.id).group_specs == {"consistent_group_snapshot_enabled": "<is> True"}
cinder.group_types.update(kind, description="e")
assert cinder.group_types.get(kind.id).description == "e"
hidden = cinder.group_types.create("hidden", is_public=False)
assert {t.name for t in cinder.group_types.list()} == {"default_group_type", "together", "hidden"}
cinder.group_types.delete(hidden)

# Groups, and volumes that come into them in three ways.
group = cinder.groups.create(kind.id, "__DEFAULT__", name="g", description="d")
group = rests(cinder.groups, group)
assert (group.name, group.description, group.group_type) == ("g", "d", kind.id), group.to_dict()
refused(404, cinder.groups.create, "none", "__DEFAULT__")
refused(400, cinder.group_types.delete, kind)
one = rests(cinder.volumes, cinder.volumes.create(1, name="one", group_id=group.id))
assert one.group_id == group.id
two = rests(cinder.volumes, cinder.volumes.create(1, name="two"))
cinder.groups.update(group, add_volumes=two.id, name="g2")
group = cinder.groups.get(group.id, list_volume=True)
assert (group.name, set(group.volumes)) == ("g2", {one.id, two.id}), group.to_dict()
refused(400, cinder.groups.update, group, add_volumes=two.id)
refused(400, cinder.volumes.delete, one)
assert {v.id for v in cinder.volumes.list(search_opts={"group_id": group.id})} == {one.id, two.id}
assert [g.id for g in cinder.groups.list(list_volume=True)] == [group.id] and other.groups.list() == []
# Without logins everybody is an administrator, who finds it all the same.
assert other.groups.get(group.id).id == group.id
assert cinder_of("demo", "3.12").volumes.get(one.id).to_dict().get("group_id", "absent") == "absent"

# A snapshot at one moment, of content that clients wrote.
attached = {}
for volume, byte in ((one, 1), (two, 2)):
    attachment = block.create_attachment(volume.id, instance="11111111-1111-1111-1111-111111111111", connector={"host": "here"})
    block.complete_attachment(attachment)
    attached[volume.id] = (attachment, block.get_attachment(attachment.id).connection_info["url"])
    qemu_io(attached[volume.id][1], f"write -P {byte} 0 64k")
taken = cinder.group_snapshots.create(group.id, name="t")
taken = rests(cinder.group_snapshots, taken)
assert (taken.group_id, taken.group_type_id, taken.name) == (group.id, kind.id, "t"), taken.to_dict()
parts = [s for s in cinder.volume_snapshots.list() if s.group_snapshot_id == taken.id]
assert {s.volume_id for s in parts} == {one.id, two.id}
refused(400, cinder.volume_snapshots.delete, parts[0])
refused(400, cinder.groups.delete, group, delete_volumes=True)
cinder.group_snapshots.update(taken, name="t2")
assert cinder.group_snapshots.get(taken.id).name == "t2"
for volume in (one, two):
    qemu_io(attached[volume.id][1], "write -P 9 0 64k")
made = cinder.groups.create_from_src(taken.id, None, name="again")
again = rests(cinder.groups, made["id"])
assert again.group_snapshot_id == taken.id
copies = cinder.groups.get(again.id, list_volume=True).volumes
contents = {}
for copy in copies:
    copy = rests(cinder.volumes, copy)
    contents[copy.name] = copy
    attached_io(copy.id, f"read -P {1 if copy.name == 'one' else 2} 0 64k")
assert set(contents) == {"one", "two"}

# From a group as it is, with the SDK.
for volume in (one, two):
    block.delete_attachment(attached[volume.id][0].id)
    rests(cinder.volumes, volume)
clone = block.create_group_from_source(source_group_id=group.id, group_snapshot_id=None, name="clone")
clone = rests(cinder.groups, clone.id)
assert clone.source_group_id == group.id and block.find_group("clone").id == clone.id
for copy in block.get_group(clone.id, list_volume=True).volumes:
    rests(cinder.volumes, copy)
    attached_io(copy, "read -P 9 0 64k")
empty = block.create_group(name="empty", group_type=kind.id, volume_types=["__DEFAULT__"])
assert block.get_group(empty.id).status == "available"
refused(400, block.create_group_snapshot, group_id=empty.id)
block.update_group(empty, name="void")
assert block.get_group(empty.id).name == "void"
second = block.create_group_snapshot(group_id=group.id, name="s")
rests(cinder.group_snapshots, second.id)
assert {s.id for s in block.group_snapshots()} == {taken.id, second.id}
assert {g.name for g in block.groups()} == {"g2", "again", "clone", "void"}
cinder.groups.reset_state(empty, "error")
assert block.get_group(empty.id).status == "error"
cinder.group_snapshots.reset_state(taken, "error")
refused(400, cinder.groups.create_from_src, taken.id, None)
refused(501, cinder.groups.enable_replication, group)

# Quota.
usage = cinder.quotas.get("demo", usage=True)
assert (usage.groups["in_use"], usage.volumes["in_use"], usage.snapshots["in_use"]) == (4, 6, 4), usage.to_dict()
cinder.quotas.update("demo", groups=4)
refused(413, block.create_group, name="x", group_type=kind.id, volume_types=["__DEFAULT__"])

# The command.
cinder_command = f"{os.path.dirname(sys.executable)}/cinder"
# As its users have it: by login and the catalog of services.
environment = {key: value for key, value in os.environ.items() if key != "CINDER_ENDPOINT"}


def command(*args):
    done = subprocess.run([cinder_command, *args], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, (args, done)
    return done.stdout


assert "clone" in command("group-list") and taken.id in command("group-snapshot-list")
assert "together" in command("group-type-list") and "g2" in command("group-show", group.id)

# Gone, with what is in them.
for one_of in (taken, cinder.group_snapshots.get(second.id)):
    cinder.group_snapshots.delete(one_of)
    goes(cinder.group_snapshots, one_of)
refused(400, cinder.groups.delete, group)
cinder.groups.update(group, remove_volumes=two.id)
for one_of, volumes in ((group, True), (again, True), (clone, True), (empty, False)):
    cinder.groups.delete(cinder.groups.get(one_of.id), delete_volumes=volumes)
    goes(cinder.groups, one_of)
assert [v.id for v in cinder.volumes.list()] == [two.id]
cinder.volumes.delete(two)
goes(cinder.volumes, two)
block.delete_group_type(kind.id, ignore_missing=False)
usage = cinder.quotas.get("demo", usage=True)
assert (usage.groups["in_use"], usage.volumes["in_use"], usage.snapshots["in_use"]) == (0, 0, 0), usage.to_dict()
