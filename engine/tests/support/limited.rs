//! Limited volumes on a simulated disk, and floods of requests.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::{cell::Cell, rc::Rc, time::Duration};

use cairn_engine::{
    BLOCK, IoBuf, LocalPool, LocalVolume, MIB, Result, VolumeOptions,
    sim::{self, Disk, Machine},
};

pub fn on<T: 'static, F: Future<Output = T> + 'static>(disk: &Disk, program: impl FnOnce(Machine) -> F + 'static) -> T {
    sim::run(disk, program).unwrap()
}

pub async fn set(pool: &LocalPool, target: &str, changes: &str) -> Result<()> {
    let change = |word: &str| match word.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (word.to_owned(), None),
    };
    let changes: Vec<_> = changes.split(' ').map(change).collect();
    pool.set_qos(&target.parse()?, &changes).await.map(drop)
}

pub async fn volume(pool: &LocalPool, name: &str) -> LocalVolume {
    let volume = pool.create_volume(name, 16 * MIB, VolumeOptions::default()).await.unwrap();
    // Where nothing is, reading takes no time.
    volume.write(0, IoBuf::from(&[1; MIB as usize][..]), false).await.unwrap();
    volume
}

/// Keeps a volume busy with `depth` requests at a time, each reading or (odd ones) writing `blocks`.
pub fn flood(machine: &Machine, volume: &LocalVolume, depth: u64, blocks: u64) -> Rc<Cell<u64>> {
    let done = Rc::new(Cell::new(0));
    for number in 0..depth {
        let (volume, done) = (volume.clone(), done.clone());
        let requests = async move {
            loop {
                let offset = number * 16 % 64 * BLOCK;
                if number % 2 == 1 {
                    volume.write(offset, IoBuf::from(&vec![7; (blocks * BLOCK) as usize][..]), false).await.unwrap();
                } else {
                    volume.read(offset, (blocks * BLOCK) as usize).await.unwrap();
                }
                done.set(done.get() + 1);
            }
        };
        machine.reactor().spawn(requests).detach();
    }
    done
}

pub async fn seconds(machine: &Machine, n: u64) {
    machine.reactor().sleep(Duration::from_secs(n)).await;
}
