//! The daemon's threads, and how they end.

use super::harness::Place;
use std::{fs, process::Stdio};

/// Names and niceness of a process's threads.
fn threads(pid: u64) -> Vec<(String, i32)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .filter_map(|task| {
            let stat = fs::read_to_string(task.unwrap().path().join("stat")).ok()?;
            let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
            // The state is the third field of all, the niceness the nineteenth.
            Some((name.to_owned(), rest.split_whitespace().nth(16)?.parse().ok()?))
        })
        .collect()
}

/// Slices of a process's threads whose names begin so, in nanoseconds, where the kernel shows them.
fn slices(pid: u64, name: &str) -> Vec<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path());
    let ours = tasks.filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.starts_with(name)));
    let shown = ours.filter_map(|task| fs::read_to_string(task.join("sched")).ok());
    let slice = |text: String| {
        let line = text.lines().find(|line| line.starts_with("se.slice"))?;
        line.rsplit_once(':')?.1.trim().parse().ok()
    };
    shown.filter_map(slice).collect()
}

fn kernel() -> (u32, u32) {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = text.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn the_interface_stands_back_and_the_data_path_does_not() {
    let place = Place::new();
    let here = threads(u64::from(std::process::id()))[0].1;
    for (more, nice) in [(&["--dev"][..], 15), (&["--dev", "--nice", "3"], 3), (&["--dev", "--nice", "0"], 0)] {
        let daemon = place.start_with(more, "warn", Stdio::inherit());
        let pid = daemon.ready["pid"].as_u64().unwrap();
        let threads = threads(pid);
        let of = |part: &str| {
            let of: Vec<i32> =
                threads.iter().filter(|(name, _)| name.starts_with(part)).map(|(_, nice)| *nice).collect();
            assert!(!of.is_empty(), "{part} is not among {threads:?}");
            of
        };
        assert!(of("tokio").iter().all(|is| *is == nice.max(here)), "{threads:?}");
        assert!(of("cairn-reactor").iter().all(|is| *is == here), "{threads:?}");
        let (interface, data) = (slices(pid, "tokio"), slices(pid, "cairn-reactor"));
        let usual = slices(u64::from(std::process::id()), "");
        assert!(data.iter().all(|slice| usual.contains(slice)), "{data:?} {usual:?}");
        // Systems that show no slices, or do not set them (before Linux 6.12), have nothing to show here.
        if nice > 0 && kernel() >= (6, 12) {
            assert!(interface.iter().all(|slice| *slice == 100_000), "{interface:?}");
        }
        assert!(daemon.stop());
    }
}

#[test]
fn a_daemon_that_is_stopped_at_once_ends_in_order() {
    let place = Place::new();
    let path = place.path().join("log");
    for _ in 0..10 {
        let log = fs::File::create(&path).unwrap();
        let daemon = place.start_with(&["--dev"], "warn", Stdio::from(log));
        assert!(daemon.stop());
        let said = fs::read_to_string(&path).unwrap();
        assert!(!said.contains("panicked"), "{said}");
    }
}
