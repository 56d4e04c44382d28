"""Images by openstacksdk: sent, listed, changed, given out, made into volumes and of volumes; what comes out is compared byte by byte."""

import hashlib
import io
import os
import subprocess
import tempfile
import threading
import urllib.request

import openstack
from openstack import exceptions

conn = openstack.connect(load_yaml_config=False, load_envvars=True)
block, image = conn.block_storage, conn.image
# Gone with this program.
directory = tempfile.TemporaryDirectory()
place = directory.name


def refused(status, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except exceptions.HttpException as error:
        assert error.status_code == status, (error.status_code, error)
        return
    raise AssertionError(f"{call} was not refused")


def rests(thing, status="available"):
    thing = thing.fetch(block)
    return block.wait_for_status(thing, status=status, failures=["error"], interval=0.05, wait=120)


def active(made):
    return conn.image.wait_for_status(image.get_image(made.id), status="active", failures=["killed"], interval=0.05, wait=120)


def run(*arguments):
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, (arguments, done)
    return done.stdout


# A disk with data, holes and an odd end; and the same as qcow2, compressed.
raw, qcow2 = os.path.join(place, "disk.raw"), os.path.join(place, "disk.qcow2")
with open(raw, "wb") as file:
    for n in range(40):
        file.seek(n * 1_700_000)
        file.write(hashlib.sha256(bytes([n])).digest() * (n * 400 + 1))
    size = file.tell()
run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, qcow2)


def attached(volume):
    """Where a real client reads and writes a volume, and the attachment."""
    attachment = block.create_attachment(volume.id, instance="1", connector={"host": "here"})
    return block.get_attachment(attachment.id).connection_info["url"], attachment


def compare(volume):
    """The whole volume over NBD against the disk: its bytes, and zeros behind them."""
    url, attachment = attached(volume)
    whole = os.path.join(place, "whole")
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", url, whole)
    with open(whole, "rb") as got, open(raw, "rb") as wanted:
        assert got.read(size) == wanted.read()
        while rest := got.read(1 << 24):
            assert not rest.strip(b"\0")
    assert os.path.getsize(whole) == volume.size << 30
    block.delete_attachment(attachment.id)
    rests(volume)


for name, path in [("raw", raw), ("qcow2", qcow2)]:
    data = open(path, "rb").read()
    made = image.create_image(
        name, filename=path, disk_format=name, container_format="bare", validate_checksum=True, wait=True,
        min_disk=1, tags=["a"], os_distro="debian",
    )
    made = image.get_image(made.id)
    assert (made.status, made.size, made.disk_format, made.visibility) == ("active", len(data), name, "private"), made
    assert made.checksum == hashlib.md5(data).hexdigest()
    assert (made.hash_algo, made.hash_value) == ("sha512", hashlib.sha512(data).hexdigest())
    assert made.virtual_size >= size and made.os_distro == "debian" and made.tags == ["a"], made
    out = os.path.join(place, "out")
    image.download_image(made, output=out)
    assert open(out, "rb").read() == data
    assert image.download_image(made, stream=False).content == data
    refused(400, block.create_volume, name="x", image_id=made.id)
    volume = rests(block.create_volume(name="of " + name, size=1, image_id=made.id))
    assert volume.is_bootable and volume.volume_image_metadata["image_id"] == made.id, volume
    assert volume.volume_image_metadata["os_distro"] == "debian"
    assert volume.volume_image_metadata["checksum"] == made.checksum
    compare(volume)

# Lists, pages and filters.
assert {i.name for i in image.images()} == {"raw", "qcow2"}
assert [i.name for i in image.images(name="raw")] == ["raw"]
assert [i.name for i in image.images(limit=1, sort="name:asc")] == ["qcow2", "raw"]
assert [i.name for i in image.images(disk_format="qcow2")] == ["qcow2"]
assert [i.name for i in image.images(status="queued")] == []
assert [i.name for i in image.images(visibility="public")] == []
assert [i.name for i in image.images(tag="b")] == []
first = image.find_image("raw")
assert image.find_image(first.id).id == first.id and image.find_image("none") is None

# Changes.
image.update_image(first, name="renamed", min_ram=64, os_distro="other")
image.add_tag(first, "t")
first = image.get_image(first.id)
assert (first.name, first.min_ram, first.os_distro, sorted(first.tags)) == ("renamed", 64, "other", ["a", "t"]), first
image.remove_tag(first, "t")
first = image.get_image(first.id)
assert first.tags == ["a"], first
image.update_image(first, is_protected=True)
refused(403, image.delete_image, first, ignore_missing=False)
image.update_image(first, is_protected=False)
image.update_image(first, visibility="public")
assert [i.id for i in image.images(visibility="public")] == [first.id]
image.update_image(first, visibility="private")
refused(400, image.update_image, image.get_image(first.id), visibility="shared")
refused(403, image.update_image, image.get_image(first.id), disk_format="qcow2")
refused(404, image.get_image, "none")
assert image.get_image_schema().name == "image" if hasattr(image, "get_image_schema") else True

# What is no image is refused, and the image waits.
empty = image._create(openstack.image.v2.image.Image, name="empty", disk_format="qcow2", container_format="bare")
assert empty.status == "queued"
empty.data = b"no qcow2"
response = empty.upload(image)
assert response.status_code == 400 and b"qcow2" in response.content, response.content
assert image.get_image(empty.id).status == "queued"
# A file that names another one.
secret, evil = os.path.join(place, "secret"), os.path.join(place, "evil")
open(secret, "wb").write(b"secret" * 10000)
run("qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", evil)
empty.data = open(evil, "rb")
response = empty.upload(image)
assert response.status_code == 400 and b"backing file" in response.content, response.content
# In pieces of unknown number.
def pieces():
    with open(qcow2, "rb") as file:
        while data := file.read(70_001):
            yield data


empty.data = pieces()
assert empty.upload(image).status_code == 204
assert image.get_image(empty.id).checksum == image.find_image("qcow2").checksum
image.delete_image(empty)
refused(404, image.get_image, empty.id)

# Images of volumes, raw and qcow2, also of one that is in use.
volume = next(block.volumes(name="of qcow2"))
for format in ["raw", "qcow2"]:
    told = block.upload_volume_to_image(volume, "made " + format, disk_format=format, container_format="bare")
    assert told["status"] == "uploading" and told["image_name"] == "made " + format, told
    made = active(image.get_image(told["image_id"]))
    rests(volume)
    assert (made.virtual_size, made.disk_format, made.os_distro) == (1 << 30, format, "debian"), made
    out = os.path.join(place, "made." + format)
    image.download_image(made, output=out)
    assert made.hash_value == hashlib.file_digest(open(out, "rb"), "sha512").hexdigest()
    if format == "qcow2":
        run("qemu-img", "check", "-f", "qcow2", out)
    whole = os.path.join(place, "made.whole")
    run("qemu-img", "convert", "-f", format, "-O", "raw", out, whole)
    assert open(whole, "rb").read(size) == open(raw, "rb").read()
    again = rests(block.create_volume(name="again", size=1, image_id=made.id))
    compare(again)
    block.delete_volume(again)
    image.delete_image(made)

url, attachment = attached(volume)
block.complete_attachment(attachment)
refused(400, block.upload_volume_to_image, volume, "attached")
told = block.upload_volume_to_image(volume, "attached", force=True, disk_format="qcow2", container_format="bare")
active(image.get_image(told["image_id"]))
rests(volume, "in-use")
block.delete_attachment(attachment.id)
rests(volume)
refused(400, block.upload_volume_to_image, volume, "x", disk_format="vmdk")
refused(404, conn.block_storage.upload_volume_to_image, "none", "x")

# Volumes outlive their images.
for one in list(image.images()):
    image.delete_image(one)
assert list(image.images()) == []
compare(volume)
for one in list(block.volumes()):
    block.delete_volume(one)
    block.wait_for_delete(one, interval=0.05, wait=60)
