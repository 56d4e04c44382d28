"""What README.md says for a platform, from nothing to a disk in a machine, pasted into a shell: against a daemon that is there already, and with the
machine in place of which a client looks at its socket."""

import os
import re
import subprocess
import sys
import tempfile

import openstack

SECTION = "### From nothing to a disk in a machine"
here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, "../../../../../README.md"), encoding="utf-8") as readme:
    section = readme.read().split(SECTION + "\n", 1)[1].split("\n### ", 1)[0]
blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
start, who, limits, volume, attach, detach, nightly, restore = blocks
assert start == "cairn up\n"

place = tempfile.TemporaryDirectory()
home = place.name
daemon = os.environ["OS_AUTH_URL"].removeprefix("http://").removesuffix("/identity/v3")
# The machine, and what is of this host alone.
STAND_INS = """
set -e -o pipefail
qemu-system-x86_64() { test -S "$socket"; echo "$*" | grep -q "path=$socket,"; }
crontab() { case $1 in -l) cat "$HOME/crontab" 2>/dev/null || true ;; -) cat > "$HOME/crontab.new"; mv "$HOME/crontab.new" "$HOME/crontab" ;; esac; }
"""


def shell(script):
    """In a shell that knows nothing but what the README tells it."""
    environment = {
        "PATH": os.path.dirname(sys.executable) + ":" + os.environ["PATH"],
        "HOME": home,
    }
    script = (STAND_INS + who + script).replace("127.0.0.1:8776", daemon)
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (script, done.stdout, done.stderr)
    return done.stdout


conn = openstack.connect(load_yaml_config=False, load_envvars=True)
block = conn.block_storage


def rests(name, status="available"):
    volume = block.find_volume(name, ignore_missing=False).fetch(block)
    return block.wait_for_status(volume, status=status, failures=["error"], interval=0.05, wait=120)


def backed_up(count):
    found = list(block.backups(sort="created_at:asc"))
    assert len(found) == count, found
    for backup in found:
        block.wait_for_status(backup.fetch(block), status="available", failures=["error"], interval=0.05, wait=120)
    return list(block.backups(sort="created_at:asc"))


# Steps 2 and 3.
shell(limits)
quota = block.get_quota_set("demo")
assert (quota.volumes, quota.gigabytes, quota.backups, quota.backup_gigabytes) == (20, 500, 100, 1000), quota
shell(volume)
db = rests("db")
assert (db.size, db.volume_type) == (10, "silver"), db
specs = block.get("/qos-specs").json()["qos_specs"]
assert specs[0]["specs"] == {"total_iops_sec": "500", "total_bytes_sec": "67108864"}, specs
assert block.get(f"/qos-specs/{specs[0]['id']}/associations").json()["qos_associations"][0]["name"] == "silver"

# Step 5 comes while it is attached: into the middle of step 4.
complete, listed, delete = [line + "\n" for line in detach.splitlines()]
assert "db is in-use" in listed and "attachment delete" in delete
nights = nightly + "\n~/nightly db\n"
said = shell(f"cat > ~/openstack.env <<'LINES'\n{who}LINES\n" + attach + complete + listed + nights + f"echo \"$attachment\" > ~/attachment\n")
assert "in-use" in said, said
[first] = backed_up(1)
assert rests("db", "in-use") and first.is_incremental is False and first.name.startswith("db-20"), first
with open(os.path.join(home, "crontab"), encoding="utf-8") as crontab:
    assert crontab.read() == f"0 3 * * * {home}/nightly db\n"
shell("~/nightly db")
first, second = backed_up(2)
assert second.is_incremental is True and block.get_backup(first.id).has_dependent_backups is True
shell("attachment=$(cat ~/attachment)\n" + delete)
rests("db")
assert not list(block.attachments())

# The way back.
listing, again, over = [line + "\n" for line in restore.splitlines()]
assert first.id in shell(listing)
shell(again.replace("BACKUP", second.id))
assert rests("db-again").size == 10
backed_up(2)
shell(over.replace("BACKUP", second.id))
backed_up(2)
rests("db")

# All but the last thirty leave the chain: here all but the last.
with open(os.path.join(home, "nightly"), encoding="utf-8") as script:
    assert "tail -n +31" in script.read()
shell("sed -i s/+31/+2/ ~/nightly; ~/nightly db")
block.wait_for_delete(first, interval=0.05, wait=120)
second, third = backed_up(2)
assert third.is_incremental is True, (second, third)
shell(again.replace("BACKUP", third.id).replace("db-again", "db-once-more"))
rests("db-once-more")
backed_up(2)

for name in ["db", "db-again", "db-once-more"]:
    gone = rests(name)
    block.delete_volume(gone)
    block.wait_for_delete(gone, interval=0.05, wait=60)
