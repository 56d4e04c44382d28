"""What a pool takes, by openstacksdk: the largest volume there is, and no more than may be promised. The daemon may promise more than that volume, and less than two of them."""

import re

import openstack
from openstack import exceptions

LARGEST = 65_536

conn = openstack.connect(load_yaml_config=False, load_envvars=True)
block = conn.block_storage


def refused(status, call, *args, says="", **kwargs):
    try:
        call(*args, **kwargs)
    except exceptions.HttpException as error:
        assert error.status_code == status and says in error.details, (error.status_code, error.details)
        return error.details
    raise AssertionError(f"{call} was not refused")


def rests(thing, status="available"):
    thing = thing.fetch(block)
    return block.wait_for_status(thing, status=status, failures=["error"], interval=0.05, wait=60)


refused(413, block.create_volume, name="x", size=LARGEST, says="gigabytes")
block.update_quota_set("demo", gigabytes=-1)
refused(400, block.create_volume, name="x", size=LARGEST + 1, says="65536")
largest = rests(block.create_volume(name="largest", size=LARGEST))
assert largest.size == LARGEST
refused(400, block.extend_volume, largest, LARGEST + 1, says="65536")
full = refused(413, block.create_volume, name="x", size=LARGEST, says=f"the pool cannot take {LARGEST} GiB more")
assert f"{LARGEST} GiB are promised" in full and "extend the pool or delete volumes" in full, full
left = int(re.search(r"promised of (\d+) GiB", full)[1]) - LARGEST
assert 1 < left < LARGEST, full
refused(413, block.create_volume, name="x", size=left + 1, says=f"the pool cannot take {left + 1} GiB more")
refused(413, block.create_volume, name="x", source_volume_id=largest.id, says=full)
small = rests(block.create_volume(name="small", size=left - 1))
refused(413, block.extend_volume, small, left + 1, says="the pool cannot take 2 GiB more")
block.extend_volume(small, left)
rests(small)
refused(413, block.create_volume, name="x", size=1, says="the pool cannot take 1 GiB more")
assert {volume.name for volume in block.volumes()} == {"largest", "small"}, "what was refused left nothing behind"
block.delete_volume(small)
block.wait_for_delete(small, interval=0.05, wait=60)
again = rests(block.create_volume(name="again", size=1))
for one in [again, largest]:
    block.delete_volume(one)
    block.wait_for_delete(one, interval=0.05, wait=60)
assert block.get_quota_set("demo", usage=True).usage["gigabytes"] == 0
