//! Pools that earlier programs wrote. They are opened, hold what they held, and go on as pools of this program.
//!
//! A stored pool is a list of its blocks that are not all zeros (number and content) behind its size, compressed. `pool-format-1` was killed
//! while it was served: some of it is in the checkpoint, and some only in the journal.

use std::{fs, os::unix::fs::FileExt, path::Path};

use cairn_engine::{BLOCK, BLOCK_SIZE, ExtentKind, IoBuf, OpenOptions, Pool};
use pollster::block_on;

fn unpack(name: &str, path: &Path) {
    let stored = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    let bytes = zstd::decode_all(fs::File::open(stored).unwrap()).unwrap();
    let (size, mut rest) = bytes.split_first_chunk::<8>().unwrap();
    let file = fs::File::create(path).unwrap();
    file.set_len(u64::from_le_bytes(*size)).unwrap();
    while let Some((number, more)) = rest.split_first_chunk::<8>() {
        let (block, more) = more.split_at(BLOCK_SIZE);
        file.write_all_at(block, u64::from_le_bytes(*number) * BLOCK).unwrap();
        rest = more;
    }
}

/// What block `block` of a target of the first pool holds.
fn expected(target: &str, block: u64) -> u8 {
    match (target, block) {
        ("later", _) | (_, 64..) => 0,
        ("db", 8..16) => 128 + block as u8,
        ("db", 32..40) => 0,
        _ => block as u8 + 1,
    }
}

async fn verify(pool: &Pool) {
    for (target, blocks) in [("db", 2048), ("db@one", 2048), ("copy", 2048), ("later", 256)] {
        let volume = pool.volume(target).await.unwrap();
        assert_eq!(volume.size().await.unwrap(), blocks * BLOCK, "{target}");
        let content = volume.read(0, (blocks * BLOCK) as usize).await.unwrap();
        for (block, bytes) in (0..).zip(content.chunks(BLOCK_SIZE)) {
            let expected = expected(target, block);
            assert!(bytes.iter().all(|byte| *byte == expected), "{target}, block {block}");
        }
    }
    let holes = pool.volume("db").await.unwrap().extents(32 * BLOCK, 8 * BLOCK).await.unwrap();
    assert!(holes.extents.iter().all(|extent| extent.kind == ExtentKind::Hole));
    assert!(pool.check(true, |_, _| {}).await.unwrap().is_clean());
}

#[test]
fn a_pool_of_format_1_is_opened_and_goes_on_as_one_of_format_2() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pool.cairn");
    unpack("pool-format-1.zst", &path);
    block_on(async {
        let pool = Pool::open(&path, OpenOptions::new().read_only(true)).await.unwrap();
        assert!(pool.stats().await.unwrap().replayed_records > 0, "the journal has some of it");
        verify(&pool).await;
        pool.close().await.unwrap();
        let pool = Pool::open(&path, OpenOptions::new()).await.unwrap();
        verify(&pool).await;
        assert!(pool.qos(&"db".parse().unwrap()).await.unwrap().limits.is_empty());
        let change = [("read_iops_sec".to_owned(), Some("1000".to_owned()))];
        pool.set_qos(&"db".parse().unwrap(), &change).await.unwrap();
        let volume = pool.volume("later").await.unwrap();
        volume.write(0, IoBuf::from(&[9; BLOCK_SIZE][..])).await.unwrap();
        volume.write(0, IoBuf::zeroed(BLOCK_SIZE)).await.unwrap();
        drop(volume);
        pool.close().await.unwrap();
        let pool = Pool::open(&path, OpenOptions::new()).await.unwrap();
        verify(&pool).await;
        assert_eq!(pool.qos(&"db".parse().unwrap()).await.unwrap().rates["read_iops_sec"], 1000);
        pool.close().await.unwrap();
    });
}
