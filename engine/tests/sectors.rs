//! Many writes of parts of one block: each is carried out in turn, whoever gives up.

#![allow(missing_docs, clippy::unwrap_used)]

use cairn_engine::{
    IoBuf, MIB, PoolOptions, SECTOR, VolumeOptions,
    sim::{self, Disk},
};

const WRITES: u64 = 4000;

fn sector(value: u64) -> IoBuf {
    IoBuf::from(&value.to_le_bytes().repeat(SECTOR as usize / 8)[..])
}

#[test]
fn writes_of_one_block_go_in_turn_and_those_given_up_hold_up_nobody() {
    let found = sim::run(&Disk::new(64 * MIB, 1), |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await.unwrap();
        let volume = pool.create_volume("db", MIB, VolumeOptions::default()).await.unwrap();
        let mut writes = Vec::new();
        for number in 1..=WRITES {
            let volume = volume.clone();
            let write = async move { volume.write(number % 8 * SECTOR, sector(number), false).await };
            writes.push((number, machine.reactor().spawn(write)));
        }
        let mut last = [0; 8];
        for (number, write) in writes {
            // From the second on they wait in line; of those given up some come next just then.
            if number > 100 && number % 7 == 0 {
                drop(write);
            } else {
                write.await.unwrap();
                last[(number % 8) as usize] = number;
            }
        }
        let data = volume.read(0, 8 * SECTOR as usize).await.unwrap();
        let values = data.chunks_exact(SECTOR as usize);
        let values: Vec<u64> = values.map(|s| u64::from_le_bytes(s[..8].try_into().unwrap())).collect();
        (values, last)
    })
    .unwrap();
    assert_eq!(found.0, found.1);
}
