//! Discards and writes of zeros beside other requests.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{cell::Cell, rc::Rc};

use cairn_engine::{IoBuf, LocalVolume, MIB, OpenOptions, Pool, PoolOptions, SECTOR, StorageKind, VolumeOptions};

const SIZE: u64 = 200 * MIB + SECTOR;

fn filled(byte: u8) -> IoBuf {
    IoBuf::from(&[byte; SECTOR as usize][..])
}

/// A volume ends within a block. While `f` clears everything from 1 MiB on, leaf by leaf, the volume grows and the next sector of that
/// block is written.
fn grow_meanwhile(f: impl AsyncFn(&LocalVolume) + Clone + Send + 'static) {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("pool");
    let open = OpenOptions::new().storage(StorageKind::Pread);
    pollster::block_on(async {
        let pool = Pool::create(&path, PoolOptions::new().size(64 * MIB).open(open.clone())).await.unwrap();
        let volume = pool.create_volume("a", SIZE, VolumeOptions::default()).await.unwrap();
        for at in (0..SIZE).step_by(MIB as usize) {
            volume.write(at, filled(1)).await.unwrap();
        }
        drop(volume);
        pool.close().await.unwrap();
        // With nothing in memory each leaf has to be read first, so there is time for others in between.
        let pool = Pool::open(&path, open).await.unwrap();
        let clear_and_write = async move |local: cairn_engine::LocalPool| {
            let volume = local.open(&"a".parse().unwrap()).unwrap();
            let cleared = Rc::new(Cell::new(false));
            let clearing = {
                let (volume, cleared) = (volume.clone(), cleared.clone());
                local.reactor().spawn(async move {
                    f(&volume).await;
                    cleared.set(true);
                })
            };
            let growing = {
                let local = local.clone();
                local.reactor().clone().spawn(async move { local.resize("a", 2 * SIZE).await.map(drop) })
            };
            let writing = {
                let (volume, cleared) = (volume.clone(), cleared.clone());
                local.reactor().spawn(async move { volume.write(SIZE, filled(2), false).await.map(|()| cleared.get()) })
            };
            assert_eq!(writing.await.map_err(|e| e.to_string()), Ok(false), "to be written while the rest is cleared");
            clearing.await;
            growing.await.unwrap();
            let sectors = volume.read(SIZE - SECTOR, 4 * SECTOR as usize).await.unwrap();
            let sectors: Vec<u8> = sectors
                .chunks(SECTOR as usize)
                .map(|sector| {
                    assert!(sector.iter().all(|b| *b == sector[0]));
                    sector[0]
                })
                .collect();
            assert_eq!(sectors[1..], [2, 0, 0], "what was written behind the old end");
            let rest = volume.read(MIB, (SIZE - SECTOR - MIB) as usize).await.unwrap();
            assert!(rest.iter().all(|b| *b == 0));
            assert!(local.check(true, |_, _| {}).await.unwrap().is_clean());
        };
        pool.run(clear_and_write).await.unwrap();
    });
}

#[test]
fn a_discard_to_the_end_leaves_what_is_written_behind_it() {
    grow_meanwhile(async |volume| volume.discard(MIB, SIZE - MIB, false).await.unwrap());
}

#[test]
fn zeros_to_the_end_leave_what_is_written_behind_them() {
    grow_meanwhile(async |volume| {
        volume.write_zeroes(MIB, SIZE - MIB, false).await.unwrap();
        let last = volume.read(SIZE - SECTOR, SECTOR as usize).await.unwrap();
        assert_eq!(last[..], filled(0)[..], "the last sector is one of those to be zeros");
    });
}
