//! Backups of the disk of a virtual machine that runs.

use cairn_tests::{
    fixture::{Serve, TempPool},
    guest::Guest,
    tool::run,
};
use serde_json::Value;

/// A volume as QEMU's drive.
fn drive(uri: &str) -> String {
    format!("driver=raw,file.driver=nbd,file.server.type=unix,{uri}")
}

/// Writes files without end, each with its own checksum beside it, each on disk before the next is begun.
const LOAD: &str = "(n=0; while [ ! -e /tmp/stop ]; do n=$((n+1)); \
    dd if=/dev/urandom of=/mnt/load/$n bs=64k count=3 2>/dev/null; md5sum /mnt/load/$n > /mnt/load/$n.sum; sync; echo $n > /tmp/new; mv /tmp/new /tmp/reached; done; \
    touch /tmp/stopped) > /dev/null 2>&1 &";

/// Fails unless the first so many files are as they were written.
fn check_files(guest: &mut Guest, count: u32) {
    let each = format!("n=1; while [ $n -le {count} ]; do md5sum -c /mnt/load/$n.sum || exit 1; n=$((n+1)); done");
    let said = guest.run(&format!("({each})"));
    assert_eq!(said.lines().filter(|line| line.ends_with(": OK")).count() as u32, count, "{said}");
}

/// How many files are on disk, once there are that many.
fn wait_for_files(guest: &mut Guest, count: u32) -> u32 {
    guest.run(&format!("while [ ! -s /tmp/reached ] || [ $(cat /tmp/reached) -lt {count} ]; do sleep 0.2; done"));
    guest.run("cat /tmp/reached").trim().parse().expect("a number")
}

#[test]
fn a_running_machine_is_backed_up_and_its_restored_disk_boots_and_holds_everything() {
    let pool = TempPool::create("1GiB");
    pool.cairn(["volume", "create", "disk", "--size", "256MiB"]);
    let repo = format!("file://{}", pool.file_text("repo"));
    let backup = |args: &[&str]| {
        let cache = pool.file_text("cache");
        pool.json(["backup"].iter().chain(args).copied().chain(["--repo", &repo, "--cache", &cache]))
    };
    let server = Serve::unix().start(&pool);
    let socket = pool.file_text("nbd.sock");
    let drive = |volume: &str| drive(&format!("file.server.path={socket},file.export={volume}"));
    run("mke2fs", ["-q", "-F", "-t", "ext4", &pool.file_text("ext4"), "256M"]).ok();
    run("qemu-img", ["convert", "-n", "-f", "raw", "-O", "raw", &pool.file_text("ext4"), &server.uri("disk")]).ok();
    backup(&["init"]);

    let mut guest = Guest::boot(&[drive("disk")]);
    guest.run("mount /dev/vda /mnt && mkdir /mnt/load && echo before > /mnt/first && sync");
    guest.run(LOAD);
    let at_full = wait_for_files(&mut guest, 3);
    let full = backup(&["create", "disk"]);
    assert_eq!(full["parent"], Value::Null);
    let at_second = wait_for_files(&mut guest, at_full + 5);
    let second = backup(&["create", "disk"]);
    assert_eq!(second["parent"], full["id"]);
    // What is written after the backups is in none of them, and the machine never notices any of it.
    guest.run("touch /tmp/stop; while [ ! -e /tmp/stopped ]; do sleep 0.2; done; echo after > /mnt/last; sync");
    check_files(&mut guest, at_second);
    guest.power_off();

    for (id, volume, at_least) in [(&full["id"], "one", at_full), (&second["id"], "two", at_second)] {
        backup(&["restore", id.as_str().expect("an id"), volume]);
        // As after a power cut: the journal is replayed, and everything that was on disk by then is there.
        let mut guest = Guest::boot(&[drive(volume)]);
        guest.run("mount /dev/vda /mnt");
        assert_eq!(guest.run("cat /mnt/first").trim(), "before");
        guest.run("[ ! -e /mnt/last ]");
        check_files(&mut guest, at_least);
        guest.run("umount /mnt");
        guest.power_off();
        run("qemu-img", ["convert", "-f", "raw", "-O", "raw", &server.uri(volume), &pool.file_text(volume)]).ok();
        run("e2fsck", ["-f", "-n", &pool.file_text(volume)]).ok();
    }
    server.stop();
}
