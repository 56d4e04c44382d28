//! What a volume may expect of limits that are not its own doing: after a crash, and beside clients that do not go on.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "support/limited.rs"]
mod limited;

use std::time::Duration;

use cairn_engine::{
    GIB, IoBuf, MIB, OpenOptions, PoolOptions, RequestKind,
    sim::{Disk, Survivors},
};
use limited::{flood, on, seconds, set, volume};

/// A lower limit is no pause: also when the machine fails right after it was set.
#[test]
fn a_lower_limit_is_no_pause_after_a_crash_either() {
    let mut told = Vec::new();
    for crash in [false, true] {
        let disk = Disk::new(256 * MIB, 3);
        let lives = on(&disk, move |machine| async move {
            let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
            let volume = volume(&pool, "db").await;
            set(&pool, "db", "read_iops_sec=10 read_iops_sec_max=1000 read_iops_sec_max_length=10").await.unwrap();
            let done = flood(&machine, &volume, 1, 1);
            seconds(&machine, 9).await;
            set(&pool, "db", "read_iops_sec_max read_iops_sec_max_length").await.unwrap();
            if crash {
                return 0;
            }
            let before = done.get();
            seconds(&machine, 30).await;
            done.get() - before
        });
        if !crash {
            told.push(lives);
            continue;
        }
        told.push(on(&disk.crash(Survivors::None), |machine| async move {
            let pool = machine.open_pool(OpenOptions::new()).await.unwrap();
            let volume = pool.open(&"db".parse().unwrap()).unwrap();
            let done = flood(&machine, &volume, 1, 1);
            seconds(&machine, 30).await;
            println!("left: {:?}", pool.qos(&"db".parse().unwrap()).unwrap().credits);
            done.get()
        }));
    }
    assert!(told.iter().all(|reads| *reads > 280), "reads in 30 s at 10 a second, without and with a crash: {told:?}");
}

/// A client that was admitted and does not go on stops nobody else: not at all, where it was said that its data is to come, and for a second
/// where it was not.
#[test]
fn who_was_admitted_and_does_not_go_on_stops_nobody() {
    for is_told in [true, false] {
        let disk = Disk::new(GIB, 4);
        let done = on(&disk, move |machine| async move {
            let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
            let staller = volume(&pool, "staller").await;
            let mut others = Vec::new();
            for n in 0..30 {
                others.push(volume(&pool, &format!("v{n}")).await);
            }
            let mut admitted = staller.admit(RequestKind::Write, MIB).await;
            let counts: Vec<_> = others.iter().map(|volume| flood(&machine, volume, 2, 1)).collect();
            let sum = || counts.iter().map(|count| count.get()).sum::<u64>();
            if is_told {
                admitted.pause();
            } else {
                seconds(&machine, 2).await;
            }
            let from = sum();
            machine.reactor().sleep(Duration::from_millis(400)).await;
            let to = sum();
            admitted.write(0, IoBuf::zeroed(MIB as usize), false).await.unwrap();
            drop(admitted);
            let after = sum();
            machine.reactor().sleep(Duration::from_millis(400)).await;
            (to - from, sum() - after)
        });
        assert!(done.0 * 2 > done.1, "reads of 30 volumes in 0.4 s while it waits, and after it: {done:?}");
    }
}
