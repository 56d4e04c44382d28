"""openstacksdk: clients that want the same thing at the same moment. As many get it as may, each of the others is told why not."""

import subprocess
import threading

import openstack
from openstack import exceptions

CLIENTS = 8
ROUNDS = 6


def connect(**more):
    return openstack.connect(load_yaml_config=False, load_envvars=True, **more).block_storage


# Each client has a connection and a token of its own.
blocks = [connect() for _ in range(CLIENTS)]
strangers = [connect(project_name="other") for _ in range(CLIENTS)]
block = blocks[0]
for one in blocks + strangers:
    list(one.volumes())


def race(*calls, by=blocks):
    """Calls all of them at one moment. Answers what each came to: what it got, or the status of its refusal."""
    gate, outcomes = threading.Barrier(len(calls)), [None] * len(calls)

    def run(n):
        gate.wait()
        try:
            outcomes[n] = calls[n](by[n])
        except exceptions.HttpException as error:
            outcomes[n] = error.status_code
        except Exception as error:
            outcomes[n] = error

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return outcomes


def is_got(outcome):
    # What answers without a body comes to nothing.
    return not isinstance(outcome, int)


def got(outcomes, refusals):
    """What was got; all others were refused in one of these ways."""
    refused = [outcome for outcome in outcomes if not is_got(outcome)]
    assert all(status in refusals for status in refused), outcomes
    return [outcome for outcome in outcomes if is_got(outcome)]


def rests(thing, status="available"):
    return block.wait_for_status(thing.fetch(block), status=status, failures=["error"], interval=0.02, wait=120)


def goes(thing):
    block.wait_for_delete(thing, interval=0.02, wait=120)


def usage():
    quota = block.get_quota_set("demo", usage=True)
    assert all(count == 0 for count in quota.reservation.values()), quota
    return quota.usage


def attach(volume):
    made = block.create_attachment(volume.id, instance="writer", connector={"host": "here"})
    return made, block.get_attachment(made.id).connection_info["url"]


def qemu_io(url, command):
    done = subprocess.run(["qemu-io", "-f", "raw", "-c", command, url], capture_output=True, text=True)
    assert done.returncode == 0 and "failed" not in done.stdout, done


def attached_io(volume, command):
    """By a consumer of its own: nobody else can open it."""
    attachment, url = attach(volume)
    qemu_io(url, command)
    block.delete_attachment(attachment)


# Quota: of those who want one more volume, or a larger one, as many get it as there is room for.
block.update_quota_set("demo", volumes=5, gigabytes=7, snapshots=3)
for _ in range(ROUNDS):
    made = got(race(*[lambda block: block.create_volume(size=1)] * CLIENTS), {413})
    assert len(made) == 5, made
    for volume in made:
        rests(volume)
    assert (usage()["volumes"], usage()["gigabytes"]) == (5, 5)
    grown = got(race(*[lambda block, v=v: block.extend_volume(v, 2) for v in made]), {413})
    assert len(grown) == 2, grown
    for volume in made:
        rests(volume)
    assert (usage()["volumes"], usage()["gigabytes"]) == (5, 7)
    deletions = [lambda block, v=v: block.delete_volume(v, ignore_missing=False) for v in made[:4] * 2]
    assert len(got(race(*deletions), {400, 404})) == 4
    for volume in made[:4]:
        goes(volume)
    # The last one gets snapshots instead.
    last = rests(made[4])
    block.update_quota_set("demo", gigabytes=1000)
    taken = got(race(*[lambda block: block.create_snapshot(volume_id=last.id)] * CLIENTS), {413})
    assert len(taken) == 3, taken
    for snapshot in taken:
        rests(snapshot)
    assert usage()["snapshots"] == 3
    block.update_quota_set("demo", gigabytes=7)
    block.delete_volume(last, cascade=True)
    goes(last)
    assert all(count == 0 for count in usage().values()), usage()
block.revert_quota_set("demo")

# A name is given once.
for n in range(ROUNDS):
    name = f"name-{n}"
    assert len(got(race(*[lambda block: block.create_type(name=name)] * CLIENTS), {409})) == 1
    assert len(got(race(*[lambda block: block.create_group_type(name=name)] * CLIENTS), {409})) == 1
    assert len(got(race(*[lambda block: block.create_qos_spec(name=name, consumer="back-end")] * CLIENTS), {409})) == 1
    assert [kind.name for kind in block.types()].count(name) == 1
    # A type goes, or a volume has it.
    kind = block.find_type(name)
    wants = [lambda block: block.create_volume(size=1, volume_type=name)] * 4
    ends = [lambda block: block.delete_type(kind, ignore_missing=False)] * 4
    outcomes = race(*wants, *ends)
    made, ended = got(outcomes[:4], {404}), got(outcomes[4:], {400, 404})
    assert (len(made), len(ended)) in {(0, 1), (4, 0)}, outcomes
    for volume in made:
        assert rests(volume).volume_type == name
        block.delete_volume(volume)
        goes(volume)

# A volume is attached once, whichever way is asked.
volume = rests(block.create_volume(size=1))
for n in range(ROUNDS):
    new = [lambda block, c=c: block.create_attachment(volume.id, instance=f"{c}", connector={"host": "here"}) for c in range(4)]
    old = [lambda block: block.reserve_volume(volume)] * 4
    outcomes = race(*new, *old)
    assert len(got(outcomes, {400})) == 1, outcomes
    attachments = list(block.attachments())
    if any(is_got(outcome) for outcome in outcomes[4:]):
        assert attachments == [] and block.get_volume(volume.id).status == "attaching"
        block.unreserve_volume(volume)
    else:
        (attachment,) = attachments
        # It is used from now on, or given up.
        done = race(
            *[lambda block: block.complete_attachment(attachment)] * 4,
            *[lambda block: block.delete_attachment(attachment, ignore_missing=False)] * 4,
        )
        got(done[:4], {400, 404})
        assert len(got(done[4:], {404})) == 1, done
    volume = rests(volume)
    assert not volume.attachments and not list(block.attachments())
block.delete_volume(volume)
goes(volume)

# A volume that has a snapshot is not deleted; of one that is deleted there are no snapshots.
for _ in range(ROUNDS):
    volume = rests(block.create_volume(size=1))
    outcomes = race(
        *[lambda block: block.delete_volume(volume, ignore_missing=False)] * 4,
        *[lambda block: block.create_snapshot(volume_id=volume.id)] * 4,
    )
    deleted, taken = got(outcomes[:4], {400, 404}), got(outcomes[4:], {400, 404})
    assert (len(deleted), len(taken)) in {(1, 0), (0, 4)}, outcomes
    for snapshot in taken:
        rests(snapshot)
    if taken:
        block.delete_volume(volume, cascade=True)
    goes(volume)
    assert not list(block.snapshots())

# What is made from a snapshot that is being deleted was made before, whole, or refused.
source = rests(block.create_volume(size=1))
attached_io(source, "write -P 7 0 64k")
for _ in range(ROUNDS):
    snapshot = rests(block.create_snapshot(volume_id=source.id))
    outcomes = race(
        *[lambda block: block.create_volume(snapshot_id=snapshot.id, size=1)] * 3,
        *[lambda block: block.delete_snapshot(snapshot, ignore_missing=False)] * 3,
        *[lambda block: block.revert_volume_to_snapshot(source, snapshot)] * 2,
    )
    made = got(outcomes[:3], {400, 404})
    deleted = got(outcomes[3:6], {400, 404, 409})
    reverted = got(outcomes[6:], {400, 404, 409})
    assert len(deleted) <= 1, outcomes
    rests(source)
    for copy in made:
        attached_io(rests(copy), "read -P 7 0 64k")
        block.delete_volume(copy)
        goes(copy)
    attached_io(source, "read -P 7 0 64k")
    if not deleted:
        block.delete_snapshot(rests(snapshot))
    goes(snapshot)

# Backups: one of a volume at a time; one that others need stays, or they were refused.
for _ in range(ROUNDS):
    (backup,) = got(race(*[lambda block: block.create_backup(volume_id=source.id)] * CLIENTS), {400})
    rests(backup)
    rests(source)
    outcomes = race(
        *[lambda block: block.delete_backup(backup, ignore_missing=False)] * 3,
        *[lambda block: block.create_backup(volume_id=source.id, is_incremental=True)] * 3,
        lambda block: block.create_volume(backup_id=backup.id, size=1),
        lambda block: block.create_volume(backup_id=backup.id, size=1),
    )
    deleted = got(outcomes[:3], {400, 404, 409})
    more = got(outcomes[3:6], {400, 409})
    made = got(outcomes[6:], {400, 404, 409})
    assert len(deleted) <= 1 and len(more) <= 1, outcomes
    rests(source)
    for copy in made:
        attached_io(rests(copy), "read -P 7 0 64k")
        block.delete_volume(copy)
        goes(copy)
    if deleted:
        goes(backup)
    for second in more:
        second = rests(second)
        restored = rests(block.create_volume(backup_id=second.id, size=1))
        attached_io(restored, "read -P 7 0 64k")
        block.delete_volume(restored)
        goes(restored)
        block.delete_backup(second)
        goes(second)
    if not deleted:
        block.delete_backup(rests(backup))
        goes(backup)
block.delete_volume(source)
goes(source)

# A volume that is offered goes to one other project.
for _ in range(ROUNDS):
    volume = rests(block.create_volume(size=1))
    transfer = block.create_transfer(volume_id=volume.id)
    accepts = [lambda block: block.accept_transfer(transfer.id, transfer.auth_key)] * 6
    withdraws = [lambda block: block.delete_transfer(transfer.id, ignore_missing=False)] * 2
    outcomes = race(*accepts, *withdraws, by=strangers[:6] + blocks[6:])
    assert len(got(outcomes, {400, 404})) == 1, outcomes
    owner = strangers[0] if any(is_got(outcome) for outcome in outcomes[:6]) else block
    counts = [one.get_quota_set(name, usage=True).usage["volumes"] for one, name in ((block, "demo"), (strangers[0], "other"))]
    assert counts == ([1, 0] if owner is block else [0, 1]), counts
    owner.delete_volume(volume)
    owner.wait_for_delete(volume, interval=0.02, wait=120)

assert all(count == 0 for count in usage().values()), usage()
assert not list(block.volumes(all_projects=True)) and not list(block.snapshots()) and not list(block.backups())
