"""Attachments by openstacksdk: several consumers of one volume, in steps, for reading only, and what an administrator sets by hand. What consumers may
do is tried by clients of NBD and vhost-user-blk."""

import socket
import struct
import subprocess

import openstack
from openstack import exceptions

conn = openstack.connect(load_yaml_config=False, load_envvars=True)
block = conn.block_storage
HERE = {"host": "here"}
VM = {"host": "here", "transport": "vhost-user"}
# Of vhost-user: the message that asks for features, and the one that says that a disk takes no writes.
GET_FEATURES, READ_ONLY = 1, 1 << 5


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


def made(name, **more):
    return rests(block.create_volume(name=name, size=1, **more))


def attached(volume, instance, complete=True, **more):
    attachment = block.create_attachment(volume.id, instance=instance, **{"connector": HERE, **more})
    if complete:
        block.complete_attachment(attachment)
    return block.get_attachment(attachment.id)


def status(volume):
    return block.get_volume(volume.id).status


def qemu_io(url, *commands, read_only=False):
    each = [part for command in commands for part in ("-c", command)]
    return subprocess.run(["qemu-io", *(["-r"] if read_only else []), "-f", "raw", *each, url], capture_output=True, text=True)


def does(url, *commands, **more):
    done = qemu_io(url, *commands, **more)
    assert done.returncode == 0 and "failed" not in done.stdout, done


def cannot_open(url):
    done = qemu_io(url, "read 0 4k", read_only=True)
    assert done.returncode != 0 and ("offered" in done.stderr or "not available" in done.stderr), done


def cannot_write(url):
    """QEMU does not open for writing what the server says takes no writes."""
    done = qemu_io(url, "write 0 4k")
    assert done.returncode != 0 and "Permission denied" in done.stderr, done


def features(path):
    """What the disk behind a socket of vhost-user-blk says it can do."""
    with socket.socket(socket.AF_UNIX) as machine:
        machine.settimeout(60)
        machine.connect(path)
        machine.sendall(struct.pack("<III", GET_FEATURES, 1, 0))
        answer = b""
        while len(answer) < 20:
            part = machine.recv(20 - len(answer))
            assert part, answer
            answer += part
        request, flags, length, value = struct.unpack("<IIIQ", answer)
        assert (request, flags & 3, length) == (GET_FEATURES, 1, 8), answer
        return value


# One consumer at a time.
volume = made("one")
first = attached(volume, "1")
url = first.connection_info["url"]
does(url, "write -P 7 0 64k")
refused(400, attached, volume, "2", says=f"volume {volume.id} is in-use and not multiattach")
refused(400, block.complete_attachment, first, says="status is attached, and must be attaching or reserved to be completed")
refused(400, block.delete_volume, volume, ignore_missing=False, says="status is in-use")
refused(400, block.delete_volume, volume, ignore_missing=False, cascade=True, says="status is in-use")
refused(400, block.set_volume_readonly, volume, True, says="status is in-use, and must be available")
refused(400, block.create_transfer, volume_id=volume.id, name="t", says="it has attachments: detach it first")
block.delete_attachment(first.id)
rests(volume)
refused(404, block.get_attachment, first.id)
refused(404, block.complete_attachment, first.id)
refused(404, block.delete_attachment, first.id, ignore_missing=False)
refused(404, block.create_attachment, "none", instance="1", connector=HERE)
refused(400, attached, volume, "1", connector={"host": "here", "transport": "pigeon"}, says="transport")
refused(400, attached, volume, "1", mode="wo", says='"rw" or "ro"')
assert status(volume) == "available", "what was refused left nothing behind"

# In steps: reserved, connected, complete.
for nothing in [None, {}]:
    reserved = block.create_attachment(volume.id, instance="1", **({} if nothing is None else {"connector": nothing}))
    assert (reserved.status, status(volume)) == ("reserved", "reserved"), reserved
    assert not block.get_attachment(reserved.id).connection_info
    refused(400, attached, volume, "2", says="reserved or attached already")
    refused(400, block.delete_volume, volume, ignore_missing=False, says="status is reserved")
    told = block.update_attachment(reserved.id, connector=HERE)
    assert (told.status, status(volume)) == ("attaching", "attaching"), told
    does(block.get_attachment(reserved.id).connection_info["url"], "read -P 7 0 64k")
    block.complete_attachment(reserved.id)
    assert (block.get_attachment(reserved.id).status, status(volume)) == ("attached", "in-use")
    block.delete_attachment(reserved.id)
    rests(volume)

# Several at a time, if the volume's type says so; by itself no longer.
refused(400, block.create_volume, name="x", size=1, is_multiattach=True, says="3.50")
kind = block.create_type(name="shared")
block.update_type_extra_specs(kind, multiattach="<is> True")
shared = made("shared", volume_type="shared")
assert shared.is_multiattach is True and block.get_volume(volume.id).is_multiattach is False
ties = [attached(shared, "1"), attached(shared, "2")]
urls = [tie.connection_info["url"] for tie in ties]
does(urls[0], "write -P 1 0 64k", "flush")
does(urls[1], "read -P 1 0 64k", "write -P 2 64k 64k", "flush")
does(urls[0], "read -P 2 64k 64k")
assert sorted(tie["server_id"] for tie in block.get_volume(shared.id).attachments) == ["1", "2"]
block.delete_attachment(ties[0].id)
assert status(shared) == "in-use"
refused(400, block.delete_volume, shared, ignore_missing=False, says="status is in-use")
does(urls[1], "read -P 1 0 64k", "write -P 3 0 64k")
block.delete_attachment(ties[1].id)
rests(shared)
for url in urls:
    cannot_open(url)

# For reading only: by the attachment, or by the volume.
tie = attached(volume, "1", mode="ro")
assert (tie.attach_mode, tie.connection_info["access_mode"]) == ("ro", "ro"), tie
does(tie.connection_info["url"], "read -P 7 0 64k", read_only=True)
cannot_write(tie.connection_info["url"])
block.delete_attachment(tie.id)
rests(volume)
tie = attached(volume, "1", connector=VM)
assert (tie.attach_mode, tie.connection_info["access_mode"]) == ("rw", "rw"), tie
assert not features(tie.connection_info["path"]) & READ_ONLY
block.delete_attachment(tie.id)
rests(volume)
tie = attached(volume, "1", connector=VM, mode="ro")
assert (tie.attach_mode, tie.connection_info["access_mode"]) == ("ro", "ro"), tie
assert features(tie.connection_info["path"]) & READ_ONLY
block.delete_attachment(tie.id)
rests(volume)
block.set_volume_readonly(volume, True)
for connector in [HERE, VM]:
    tie = attached(volume, "1", connector=connector)
    assert tie.connection_info["access_mode"] == "ro", tie
    match connector:
        case {"transport": _}:
            assert features(tie.connection_info["path"]) & READ_ONLY
        case _:
            cannot_write(tie.connection_info["url"])
    block.delete_attachment(tie.id)
    rests(volume)
block.set_volume_readonly(volume, False)
tie = attached(volume, "1")
does(tie.connection_info["url"], "read -P 7 0 64k", "write -P 8 0 64k")

# By hand. A volume that is said to be free has no consumer, and its data as it was.
refused(400, block.reset_volume_status, volume, "bananas", says='"bananas" is none that can be set')
refused(400, block.reset_volume_status, volume, None, "bananas", says="bananas")
block.reset_volume_status(volume, "available", "detached")
assert status(volume) == "available" and not block.get_volume(volume.id).attachments
cannot_open(tie.connection_info["url"])
refused(404, block.get_attachment, tie.id)
refused(400, block.reset_volume_status, volume, "in-use", says="a volume without an attachment cannot be in-use")
refused(400, block.extend_volume, block.get_volume(volume.id), 1, says="must be greater")
block.reset_volume_status(volume, "error")
refused(400, attached, volume, "2", says="status is error")
block.reset_volume_status(volume, "available")
tie = attached(volume, "2", complete=False)
does(tie.connection_info["url"], "read -P 8 0 64k")
assert status(volume) == "attaching"
block.reset_volume_status(volume, None, "attached")
assert block.get_attachment(tie.id).status == "attached"
block.reset_volume_status(volume, "in-use")

# Detached by force: whatever its state is, and its consumer is cut off.
block.reset_volume_status(volume, "error")
refused(400, block.detach_volume, volume, tie.id, says="status is error")
block.detach_volume(volume, tie.id, force=True, connector=HERE)
assert status(volume) == "available" and not block.get_volume(volume.id).attachments
cannot_open(tie.connection_info["url"])
tie = attached(volume, "3")
does(tie.connection_info["url"], "read -P 8 0 64k")
block.delete_attachment(tie.id)

for one in [volume, shared]:
    rests(one)
    block.delete_volume(one, ignore_missing=False)
    block.wait_for_delete(one, interval=0.05, wait=60)
block.delete_type(kind)
assert not list(block.volumes()) and not list(block.attachments())
