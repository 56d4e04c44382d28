//! Random histories against a plain model: after every step each version reads back what it must, and the allocated set equals the
//! reachable set; at the end, deleting everything leaves nothing.

mod support;

use cairn_engine::StorageKind;
use proptest::{prelude::*, test_runner::Config};
use support::{Op, World};

fn cases() -> u32 {
    std::env::var("CAIRN_MODEL_CASES").ok().and_then(|v| v.parse().ok()).unwrap_or(60)
}

fn run(ops: &[Op], storage: StorageKind) {
    let dir =
        tempfile::tempdir_in(if std::path::Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }).unwrap();
    pollster::block_on(async {
        let mut world = World::new(dir.path(), storage).await;
        for op in ops {
            world.step(*op).await;
            world.verify().await;
        }
        world.finish().await;
    });
}

fn history(len: usize) -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec((any::<u8>(), any::<u32>(), any::<u32>()), 1..len)
}

proptest! {
    #![proptest_config(Config { cases: cases(), max_shrink_iters: 400, ..Config::default() })]

    #[test]
    fn histories_on_pread(ops in history(120)) {
        run(&ops, StorageKind::Pread);
    }

    #[test]
    fn histories_on_uring(ops in history(120)) {
        run(&ops, StorageKind::Uring);
    }
}
