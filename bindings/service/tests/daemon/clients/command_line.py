"""The command `openstack`, from its entry point, against a daemon: each command for volumes, with its refusals. One process runs them all, since
starting it takes longer than what it does; `readme.py` starts it as a user does."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time

import openstack as sdk
from openstackclient import shell

# `openstack volume attachment create` asks a compute service for the server first: here there is none.
block = sdk.connect(load_yaml_config=False, load_envvars=True).block_storage


def openstack(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = shell.main(list(arguments))
        except SystemExit as ended:
            code = ended.code
    return code, out.getvalue(), err.getvalue()


def run(*arguments):
    code, out, err = openstack(*arguments)
    assert code == 0, (arguments, out, err)
    return out


def told(*arguments):
    return json.loads(run(*arguments, "-f", "json"))


def by_other(*arguments):
    """By somebody of another project, in a process of its own: in this one the first login counts for all."""
    command = os.path.join(os.path.dirname(sys.executable), "openstack")
    done = subprocess.run([command, "--os-project-name", "q", *arguments, "-f", "json"], capture_output=True, text=True)
    assert done.returncode == 0, (arguments, done)
    return json.loads(done.stdout)


def refused(says, *arguments):
    code, out, err = openstack(*arguments)
    assert code != 0 and says in err, (arguments, code, out, err)


def names(*arguments):
    return [line["Name"] for line in told(*arguments)]


def rests(what, name, status="available"):
    for _ in range(1200):
        thing = told(*what.split(), "show", name)
        if thing["status"] == status:
            return thing
        assert not thing["status"].startswith("error"), thing
        time.sleep(0.05)
    raise AssertionError(f"{name} stays {thing['status']}")


def goes(what, name):
    for _ in range(1200):
        code, _, err = openstack(*what.split(), "show", name)
        if code != 0:
            assert "404" in err or "No " in err, err
            return
        time.sleep(0.05)
    raise AssertionError(f"{name} stays")


# Types and QoS specs.
made = told("volume", "qos", "create", "--consumer", "back-end", "--property", "total_iops_sec=500", "silver")
assert (made["name"], made["consumer"], made["properties"]) == ("silver", "back-end", {"total_iops_sec": "500"}), made
refused("409", "volume", "qos", "create", "silver")
refused("bananas", "volume", "qos", "create", "--property", "bananas=1", "bad")
made = told("volume", "type", "create", "--description", "limited", "--property", "x=y", "silver")
assert (made["name"], made["description"], made["is_public"]) == ("silver", "limited", True), made
refused("409", "volume", "type", "create", "silver")
run("volume", "qos", "associate", "silver", "silver")
run("volume", "qos", "set", "--property", "read_bytes_sec=1048576", "silver")
shown = told("volume", "qos", "show", "silver")
assert shown["associations"] == ["silver"] and shown["properties"]["read_bytes_sec"] == "1048576", shown
run("volume", "qos", "unset", "--property", "read_bytes_sec", "silver")
assert told("volume", "qos", "list")[0]["Properties"] == {"total_iops_sec": "500"}
refused("still associated", "volume", "qos", "delete", "silver")
run("volume", "type", "set", "--name", "silver2", "--description", "d", "--property", "z=w", "silver")
run("volume", "type", "unset", "--property", "x", "silver2")
shown = told("volume", "type", "show", "silver2")
assert (shown["description"], shown["properties"]) == ("d", {"z": "w"}), shown
run("volume", "type", "set", "--name", "silver", "silver2")
made = told("volume", "type", "create", "--private", "--project", "q", "hidden")
assert made["is_public"] is False and told("volume", "type", "show", "hidden")["access_project_ids"] == ["q"], made
assert names("volume", "type", "list", "--private") == ["hidden"]
assert sorted(names("volume", "type", "list", "--public")) == ["__DEFAULT__", "silver"]
assert names("volume", "type", "list", "--default") == ["__DEFAULT__"]
refused("default volume type", "volume", "type", "delete", "__DEFAULT__")
run("volume", "type", "delete", "hidden")

# Quotas.
run("quota", "set", "--volumes", "1", "--gigabytes", "5", "--snapshots", "2", "demo")
limits = {line["Resource"]: line["Limit"] for line in told("quota", "show", "--volume", "demo")}
assert (limits["volumes"], limits["gigabytes"], limits["snapshots"]) == (1, 5, 2), limits
refused("gigabytes", "volume", "create", "--size", "6", "db")
volume = told("volume", "create", "--size", "1", "--type", "silver", "--property", "a=b", "--description", "data", "db")
assert (volume["type"], volume["properties"], volume["description"]) == ("silver", {"a": "b"}, "data"), volume
refused("413", "volume", "create", "--size", "1", "more")
rests("volume", "db")
usage = {line["Resource"]: line["In Use"] for line in told("quota", "show", "--volume", "--usage", "demo")}
assert (usage["volumes"], usage["gigabytes"]) == (1, 1), usage
run("quota", "delete", "--volume", "demo")
refused("in use", "volume", "type", "delete", "silver")

# Changes of a volume.
run("volume", "set", "--name", "db2", "--description", "e", "--property", "c=d", "--bootable", "--read-only", "db")
shown = told("volume", "show", "db2")
assert (shown["description"], shown["properties"]) == ("e", {"a": "b", "c": "d", "readonly": "True"}), shown
assert shown["bootable"] in (True, "true"), shown
run("volume", "unset", "--property", "a", "db2")
run("volume", "set", "--name", "db", "--read-write", "--non-bootable", "db2")
run("volume", "set", "--size", "2", "db")
rests("volume", "db")
shown = told("volume", "show", "db")
assert shown["size"] == 2 and "a" not in shown["properties"] and shown["bootable"] in (False, "false"), shown
refused("greater", "volume", "set", "--size", "2", "db")
refused("none", "volume", "set", "--type", "none", "--migration-policy", "never", "db")
run("volume", "set", "--type", "__DEFAULT__", "--migration-policy", "never", "db")
assert rests("volume", "db")["type"] == "__DEFAULT__"
refused("of type __DEFAULT__ already", "volume", "set", "--type", "__DEFAULT__", "--migration-policy", "never", "db")
run("volume", "set", "--state", "error", "db")
assert names("volume", "list", "--status", "error") == ["db"] and names("volume", "list", "--status", "available") == []
run("volume", "set", "--state", "available", "db")
assert names("volume", "list", "--name", "db") == ["db"] == names("volume", "list", "--long")
assert names("volume", "list", "--name", "none") == [] and told("volume", "summary")["Total Count"] == 1

# Snapshots, and the way back to the latest of them.
run("volume", "snapshot", "create", "--volume", "db", "--property", "k=v", "first")
rests("volume snapshot", "first")
run("volume", "snapshot", "create", "--volume", "db", "second")
rests("volume snapshot", "second")
run("volume", "snapshot", "set", "--name", "renamed", "--description", "s", "--property", "l=w", "first")
run("volume", "snapshot", "unset", "--property", "k", "renamed")
shown = told("volume", "snapshot", "show", "renamed")
assert (shown["description"], shown["properties"], shown["size"]) == ("s", {"l": "w"}, 2), shown
assert names("volume", "snapshot", "list", "--volume", "db") == ["second", "renamed"]
refused("latest snapshot", "volume", "revert", "renamed")
run("volume", "revert", "second")
rests("volume", "db")
run("volume", "create", "--snapshot", "second", "clone")
assert rests("volume", "clone")["size"] == 2
refused("2 snapshots", "volume", "delete", "db")
run("volume", "snapshot", "delete", "renamed")
goes("volume snapshot", "renamed")
run("volume", "set", "--size", "3", "db")
rests("volume", "db")
refused("it was extended since", "volume", "revert", "second")
run("volume", "create", "--source", "db", "copy")
assert rests("volume", "copy")["size"] == 3

# Attachments: what is attached is not deleted, reverted, restored.
server = "11111111-1111-1111-1111-111111111111"
refused("compute", "volume", "attachment", "create", "--connect", "--host", "here", "--server", server, "db")
attachment = block.create_attachment(volume["id"], instance=server, connector={"host": "here", "mountpoint": "/dev/vdb"}).id
assert told("volume", "attachment", "show", attachment)["Status"] == "attaching"
run("volume", "attachment", "complete", attachment)
refused("attached", "volume", "attachment", "complete", attachment)
shown = told("volume", "attachment", "show", attachment)
assert (shown["Status"], shown["Instance ID"], shown["Attach Mode"]) == ("attached", server, "rw"), shown
assert [line["ID"] for line in told("volume", "attachment", "list", "--volume-id", volume["id"])] == [attachment]
assert told("volume", "attachment", "list", "--status", "reserved") == []
assert told("volume", "show", "db")["status"] == "in-use"
refused("in-use", "volume", "delete", "db")
refused("in-use", "volume", "delete", "--purge", "db")
refused("in-use", "volume", "backup", "create", "db")
run("volume", "set", "--size", "4", "db")
rests("volume", "db", "in-use")
made = told("volume", "backup", "create", "--force", "--name", "full", "--property", "p=q", "db")
full = rests("volume backup", "full")
assert (full["id"], full["size"], full["is_incremental"]) == (made["id"], 4, False), full
refused("in-use", "volume", "backup", "restore", "--force", "full", "db")
run("volume", "attachment", "delete", attachment)
rests("volume", "db")
refused("could not be found", "volume", "attachment", "show", attachment)
# Reserved first, with a connector that says nothing, as the command sends it; who comes is known later.
attachment = block.create_attachment(volume["id"], instance=server, connector={}).id
assert told("volume", "show", "db")["status"] == "reserved"
made = told("volume", "attachment", "set", "--host", "here", attachment)
assert made["Status"] == "attaching", made
run("volume", "attachment", "delete", attachment)
rests("volume", "db")

# Backups.
run("volume", "backup", "create", "--incremental", "--name", "next", "db")
following = rests("volume backup", "next")
assert following["is_incremental"] is True and told("volume", "backup", "show", "full")["has_dependent_backups"] is True
assert names("volume", "backup", "list", "--volume", "db") == ["next", "full"]
assert names("volume", "backup", "list", "--status", "error") == [] and names("volume", "backup", "list", "--name", "full") == ["full"]
refused(following["id"], "volume", "backup", "delete", "full")
run("volume", "backup", "set", "--name", "newer", "--description", "n", "--property", "r=s", "next")
shown = told("volume", "backup", "show", "newer")
assert (shown["name"], shown["description"]) == ("newer", "n"), shown
refused("--force", "volume", "backup", "restore", "newer", "db")
refused("too small", "volume", "backup", "restore", "--force", "newer", "clone")
restored = told("volume", "backup", "restore", "newer", "again")
assert (restored["id"], restored["volume_name"]) == (following["id"], "again"), restored
rests("volume backup", "newer")
assert rests("volume", "again")["size"] == 4
run("volume", "backup", "restore", "--force", "newer", "db")
rests("volume backup", "newer")
rests("volume", "db")
run("volume", "create", "--backup", "full", "--size", "5", "larger")
assert rests("volume", "larger")["size"] == 5
assert told("volume", "backup", "record", "export", "full")["backup_service"]
run("volume", "backup", "delete", "newer")
goes("volume backup", "newer")
run("volume", "backup", "delete", "full")
goes("volume backup", "full")

# Transfers.
offer = told("volume", "transfer", "request", "create", "--name", "offer", "clone")
assert told("volume", "show", "clone")["status"] == "awaiting-transfer"
refused("awaiting-transfer", "volume", "delete", "clone")
assert names("volume", "transfer", "request", "list") == ["offer"]
assert told("volume", "transfer", "request", "show", "offer")["id"] == offer["id"]
refused("400", "volume", "transfer", "request", "accept", "--auth-key", "wrong", offer["id"])
run("volume", "transfer", "request", "delete", offer["id"])
rests("volume", "clone")
offer = told("volume", "transfer", "request", "create", "clone")
taken = by_other("volume", "transfer", "request", "accept", "--auth-key", offer["auth_key"], offer["id"])
assert taken["volume_id"] == offer["volume_id"], taken
assert "clone" not in names("volume", "list")
assert [line["Name"] for line in by_other("volume", "list")] == ["clone"]
assert "clone" in names("volume", "list", "--all-projects")
run("volume", "delete", offer["volume_id"])
goes("volume", offer["volume_id"])

# What lists can be narrowed by.
lists = {line["Resource"]: line["Filters"] for line in told("block", "storage", "resource", "filter", "list")}
assert "created_at" in lists["volume"] and "volume_id" in lists["snapshot"], lists
shown = told("block", "storage", "resource", "filter", "show", "volume")
assert (shown["Resource"], shown["Filters"]) == ("volume", lists["volume"]), shown

# What is not there.
nobody = "22222222-2222-2222-2222-222222222222"
for what in ["volume", "volume snapshot", "volume backup", "volume type", "volume qos", "volume transfer request"]:
    for action in ["show", "delete"]:
        code, _, err = openstack(*what.split(), action, nobody)
        assert code != 0 and nobody in err and ("No " in err or "could not be found" in err), (what, action, err)
refused("could not be found", "volume", "attachment", "show", nobody)
assert told("volume", "message", "list") == []
refused("could not be found", "volume", "message", "show", nobody)

# The end.
run("volume", "delete", "--purge", "db")
run("volume", "delete", "--force", "copy")
run("volume", "delete", "again", "larger")
for name in ["db", "copy", "again", "larger"]:
    goes("volume", name)
assert names("volume", "snapshot", "list") == []
run("volume", "qos", "disassociate", "--all", "silver")
run("volume", "qos", "delete", "silver")
run("volume", "type", "delete", "silver")
assert names("volume", "type", "list") == ["__DEFAULT__"] and told("volume", "qos", "list") == []
