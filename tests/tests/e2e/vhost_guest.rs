//! A virtual machine whose disk is a vhost-user-blk socket of `cairn serve`, through everything that happens to servers and disks.

use cairn_tests::{
    fixture::{Serve, Server, TempPool},
    guest::{Guest, prepared},
    tool::run,
};
use serde_json::Value;
use std::env;

/// Files of the load: their names are numbers below this.
const SLOTS: u32 = 100;
const FILE: u32 = 150_000;

/// Mounts the file system and writes files without end, the oldest in turn replaced: a line that says which it is, and bytes that all have, which
/// lie on the disk too. A file gets its name when it is on disk, and is counted when it has it; their checksums are kept in the guest's
/// memory. Beside them, something else is written all the time.
fn start_load(guest: &mut Guest) {
    guest.run(&format!("mount /dev/vda /mnt && mkdir /mnt/load && head -c {FILE} /dev/urandom > /tmp/base"));
    guest.run("cp /tmp/base /mnt/load/base && sync");
    guest.run(&format!(
        "(n=0; while [ ! -e /tmp/stop ]; do n=$((n+1)); s=$((n % {SLOTS})); \
         (echo file $n; cat /tmp/base) | dd of=/mnt/load/new conv=fsync 2> /dev/null && mv /mnt/load/new /mnt/load/$s && sync || exit; \
         (echo file $n; cat /tmp/base) | md5sum > /tmp/sum.$s; echo $n > /tmp/new; mv /tmp/new /tmp/reached; done; \
         touch /tmp/stopped) > /tmp/load.log 2>&1 &"
    ));
    guest.run("(while [ ! -e /tmp/stop ]; do dd if=/dev/zero of=/mnt/other bs=64k count=64 conv=fsync; done) > /dev/null 2>&1 &");
}

/// How many files are on disk, once there are that many.
fn wait_for_files(guest: &mut Guest, count: u32) -> u32 {
    guest.run(&format!("while [ ! -s /tmp/reached ] || [ $(cat /tmp/reached) -lt {count} ]; do sleep 0.1; done"));
    guest.run("cat /tmp/reached").trim().parse().expect("a number")
}

/// Fails unless the files that the running guest has written are, read from its disk, what it wrote.
fn check_written(guest: &mut Guest, reached: u32) {
    guest.run("sync; echo 3 > /proc/sys/vm/drop_caches");
    let count = reached.min(SLOTS);
    let each = "md5sum < /mnt/load/$s | cmp -s - /tmp/sum.$s || { echo file $s differs; exit 1; }";
    guest.run(&format!(
        "(n=0; while [ $n -lt {count} ]; do s=$((({reached} - n) % {SLOTS})); {each}; n=$((n+1)); done)"
    ));
}

/// Fails unless, on the disk mounted at `at`, all files are whole, and those up to number `reached` or later ones are there.
fn check_found(guest: &mut Guest, at: &str, reached: u32) {
    let each = format!(
        "f={at}/load/$((n % {SLOTS})); l=$(head -n 1 $f) && [ ${{l#file }} -ge $n ] && (echo $l; cat {at}/load/base) | cmp -s - $f || \
         {{ echo file $n: $l; exit 1; }}"
    );
    let first = reached.saturating_sub(SLOTS - 1).max(1);
    guest.run(&format!("(n={first}; while [ $n -le {reached} ]; do {each}; n=$((n+1)); done)"));
}

/// The kernel of the guest has had no trouble with its disk.
fn no_errors(guest: &mut Guest) {
    let said =
        guest.run("dmesg | grep -i -e 'i/o error' -e 'ext4-fs error' -e 'aborting' -e 'blocked for more' || true");
    assert_eq!(said, "");
    assert_eq!(guest.run("cat /tmp/load.log"), "");
}

/// What the server knows of the machine whose disk is the first.
fn client(pool: &TempPool) -> Value {
    pool.json(["status"])["vhost_user"]["exports"][0]["client"].take()
}

fn allocated(pool: &TempPool) -> u64 {
    pool.json(["volume", "info", "disk"])["allocated"].as_u64().expect("a number")
}

/// A server with a volume `disk` that holds an empty ext4, attached.
fn serve(pool: &TempPool) -> Server<'_> {
    let image = pool.file_text("ext4");
    run("mke2fs", ["-q", "-F", "-t", "ext4", &image, "256M"]).ok();
    pool.cairn(["volume", "import", "--format", "raw", &image, "disk"]);
    Serve::unix().arg("--vhost-user").arg(pool.file("vhost")).start(pool)
}

/// How often the server is killed: more for a soak.
fn kills() -> u32 {
    let count = env::var("CAIRN_KILLS").map_or(4, |count| count.parse().expect("CAIRN_KILLS is a number"));
    assert!(count > 0, "CAIRN_KILLS=0 tests nothing");
    count
}

#[test]
fn a_machine_outlives_its_servers_and_its_snapshots_boot() {
    let pool = TempPool::create("1GiB");
    let mut server = serve(&pool);
    let disk = pool.json(["attach", "disk", "--queues", "2"]);
    let mut guest = Guest::boot_attached(&[disk]);
    start_load(&mut guest);
    let mut reached = 0;
    let kills = kills();
    let (mut at_snapshot, mut repeated) = (0, 0);
    for kill in 1..=kills {
        reached = wait_for_files(&mut guest, reached + 2);
        repeated += client(&pool)["resubmitted"].as_u64().expect("a number");
        if kill == kills.div_ceil(2) {
            pool.cairn(["snapshot", "create", "disk@half"]);
            at_snapshot = reached;
        }
        server = server.restart_after_kill9();
    }
    // In order, too: as an upgrade does it.
    reached = wait_for_files(&mut guest, reached + 2);
    let how = Serve::unix().arg("--vhost-user").arg(pool.file("vhost"));
    server = how.start(server.stop());
    wait_for_files(&mut guest, reached + 2);
    pool.cairn(["snapshot", "create", "disk@end"]);
    guest.run("touch /tmp/stop; while [ ! -e /tmp/stopped ]; do sleep 0.1; done");
    let reached = wait_for_files(&mut guest, 1);
    check_written(&mut guest, reached);
    no_errors(&mut guest);
    let client = client(&pool);
    assert_eq!((client["failed"].as_u64(), client["faults"].as_u64()), (Some(0), Some(0)), "{client}");
    guest.power_off();
    println!("{kills} kills, {reached} files, {repeated} requests in flight done again");

    pool.cairn(["clone", "disk@half", "copy"]);
    let disks = ["copy", "disk@end", "disk"].map(|target| pool.json(["attach", target, "--queues", "1"]));
    let mut guest = Guest::boot_attached(&disks);
    // As after a power cut: the journal is replayed. On a snapshot that cannot be, so it is left out.
    guest.run(
        "mkdir /mnt/copy /mnt/end /mnt/disk; mount -t ext4 /dev/vda /mnt/copy && mount -t ext4 /dev/vdc /mnt/disk",
    );
    check_found(&mut guest, "/mnt/copy", at_snapshot);
    check_found(&mut guest, "/mnt/disk", reached);
    assert_eq!(guest.run("cat /sys/block/vd?/ro").split_whitespace().collect::<Vec<_>>(), ["0", "1", "0"]);
    guest.run("mount -t ext4 -o ro,noload /dev/vdb /mnt/end && ls /mnt/end/load > /dev/null && umount /mnt/end");
    guest.run("! dd if=/dev/zero of=/dev/vdb bs=4096 count=1 2> /dev/null");
    guest.run("umount /mnt/copy /mnt/disk");
    no_errors_but_of_refusals(&mut guest);
    guest.power_off();
    for target in ["copy", "disk"] {
        pool.cairn_when_free(&["detach", target]);
        pool.cairn(["volume", "export", "--format", "raw", "--force", target, &pool.file_text("image")]);
        run("e2fsck", ["-f", "-n", &pool.file_text("image")]).ok();
    }
    server.stop();
    pool.assert_clean();
}

/// The same, where a write to a snapshot was tried.
fn no_errors_but_of_refusals(guest: &mut Guest) {
    assert_eq!(guest.run("dmesg | grep -i -e 'i/o error' -e 'ext4-fs error' | grep -v vdb || true"), "");
}

#[test]
fn space_is_given_back_and_the_disk_grows_under_a_running_machine() {
    let pool = TempPool::create("1GiB");
    let server = serve(&pool);
    let disk = pool.json(["attach", "disk", "--queues", "1"]);
    let mut guest = Guest::boot_attached(&[disk]);
    guest.run("mount /dev/vda /mnt && head -c 1048576 /dev/urandom > /tmp/new");
    guest.run("n=0; while [ $n -lt 64 ]; do cat /tmp/new; n=$((n+1)); done > /mnt/big && sync");
    let full = allocated(&pool);
    assert!(full > 64 << 20, "{full}");
    guest.run("rm /mnt/big && sync && fstrim /mnt");
    let trimmed = allocated(&pool);
    assert!(trimmed < full - (60 << 20), "{trimmed} of {full}");

    pool.cairn(["volume", "resize", "disk", "--size", "320MiB"]);
    guest.run("while [ $(cat /sys/block/vda/size) != 655360 ]; do sleep 0.1; done");
    // Behind the file system, in what is new.
    guest.run("dd if=/tmp/new of=/dev/vda bs=1048576 seek=319 2> /dev/null && sync");
    guest.run("echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vda bs=1048576 skip=319 2> /dev/null | cmp - /tmp/new");
    guest.run("echo done > /mnt/last; umount /mnt");
    assert_eq!(guest.run("dmesg | grep -i 'i/o error' || true"), "");
    guest.power_off();
    server.stop();
    pool.assert_clean();
}

/// A line that only the system at hand says.
fn write_mark(guest: &mut Guest, mark: &str) {
    guest.run(&format!(
        "echo {mark} > /root/{mark} && head -c 4000000 /dev/urandom > /root/data && sha256sum /root/data > /root/sum"
    ));
}

#[test]
fn a_whole_distribution_boots_from_clones() {
    let pool = TempPool::create("2GiB");
    let image = prepared("disk").display().to_string();
    pool.cairn(["volume", "import", "--format", "raw", &image, "debian"]);
    pool.cairn(["snapshot", "create", "debian@installed"]);
    pool.cairn(["clone", "debian@installed", "first"]);
    let server = Serve::unix().arg("--vhost-user").arg(pool.file("vhost")).start(&pool);

    let mut guest = Guest::boot_from(&pool.json(["attach", "first"]));
    assert_eq!(guest.run("systemctl is-system-running --wait; systemctl --failed --plain --no-legend"), "running");
    assert_eq!(guest.run("findmnt --noheadings --output SOURCE,FSTYPE / | xargs"), "/dev/vda ext4");
    // All files of all packages as they were installed, but for those that the image does without.
    let packages = guest.run("dpkg-query --show | wc -l").parse::<u32>().expect("a number");
    assert!(packages > 80, "{packages} packages");
    let other = guest.run("dpkg --verify | grep -v -e ' /usr/share/' -e ' /var/cache/apt' -e ' /var/lib/apt/' || true");
    assert_eq!(other, "");
    write_mark(&mut guest, "first");
    guest.run("sync");
    pool.cairn(["snapshot", "create", "first@used"]);
    guest.end_with("systemctl poweroff");

    // What was written before the snapshot, and the machine goes on from there as after a power cut.
    pool.cairn(["clone", "first@used", "second"]);
    let mut guest = Guest::boot_from(&pool.json(["attach", "second"]));
    assert_eq!(guest.run("systemctl is-system-running --wait"), "running");
    guest.run("cat /root/first && sha256sum --check --status /root/sum");
    write_mark(&mut guest, "second");
    guest.end_with("systemctl poweroff");

    for target in ["first", "second"] {
        pool.cairn_when_free(&["detach", target]);
        pool.cairn(["volume", "export", "--format", "raw", "--force", target, &pool.file_text("image")]);
        run("e2fsck", ["-f", "-n", &pool.file_text("image")]).ok();
    }
    let own = |target: &str, mark: &str| {
        pool.cairn(["volume", "export", "--format", "raw", "--force", target, &pool.file_text("image")]);
        run("debugfs", ["-R", &format!("cat /root/{mark}"), &pool.file_text("image")]).ok().stdout
    };
    assert_eq!(own("second", "second"), b"second\n");
    assert_eq!(own("first", "second"), b"");
    // The one that all come from is as it was.
    pool.cairn(["volume", "export", "--format", "raw", "--force", "debian", &pool.file_text("image")]);
    run("cmp", [&image, &pool.file_text("image")]).ok();
    server.stop();
    pool.assert_clean();
}
