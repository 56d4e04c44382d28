//! Going on with a damaged pool: nothing that was there and could be read may be lost by its use.

use super::{
    allowed::{Allowed, Expected},
    history::{Contents, fill_run},
    open, options,
    seen::look,
};
use cairn_engine::{BLOCK, LocalPool, MIB, Result, Target, VolumeOptions};
use pollster::block_on;
use std::{collections::BTreeSet, path::Path};

/// A volume that is made.
const NEW: &str = "new";
const NEW_BLOCKS: u64 = 64;
const NEW_FILL: u64 = 2000;
/// Blocks of each volume that are written anew.
const REWRITTEN: u64 = 4;

/// What was done, and whether that is known to have succeeded.
#[derive(Default)]
struct Done {
    /// Volume, first block, fill.
    writes: Vec<(String, u64, u64, bool)>,
    created: bool,
    deleted: Vec<(String, bool)>,
}

/// Opens the pool for writing, uses it and closes it. It held one of `states`.
pub(super) fn go_on(path: &Path, states: &[&Contents], probes: &BTreeSet<u64>, intact: bool) {
    let Some(pool) = open(path, options()) else {
        assert!(!intact, "an intact pool cannot be opened for writing");
        return;
    };
    let done = block_on(pool.run(|local| async move { work(&local).await })).expect("the reactor lives");
    let closed = block_on(pool.close());
    assert!(!intact || closed.is_ok(), "{closed:?}");
    let Some(seen) = look(path, probes) else {
        assert!(closed.is_err(), "the pool was closed in good order and does not open");
        return;
    };
    assert!(!intact || seen.clean, "{:?}", seen.problems);
    let faults: Vec<String> = states.iter().filter_map(|state| done.on(state).matches(&seen).err()).collect();
    assert!(faults.len() < states.len(), "the pool is as it never was: {faults:#?}");
}

async fn work(pool: &LocalPool) -> Done {
    let mut done = Done::default();
    for (i, volume) in pool.list_volumes().into_iter().enumerate() {
        let (first, with) = (i as u64 * 3, 1000 + i as u64);
        let written = write(pool, &volume.name, first, REWRITTEN, with).await;
        done.writes.push((volume.name, first, with, written.is_ok()));
    }
    if let Some(snapshot) = pool.list_snapshots(None).unwrap_or_default().first() {
        let target = Target { volume: snapshot.volume.clone(), snapshot: Some(snapshot.name.clone()) };
        let deleted = pool.delete_snapshot(&target).await;
        done.deleted.push((target.to_string(), deleted.is_ok()));
    }
    let created = async {
        drop(pool.create_volume(NEW, MIB, VolumeOptions::default()).await?);
        write(pool, NEW, 0, NEW_BLOCKS, NEW_FILL).await
    };
    done.created = created.await.is_ok();
    // Space comes back and is used again: what a damaged map calls free must not be taken from others.
    let _given_back = pool.wait_deleted().await;
    if done.created {
        let _again = write(pool, NEW, 0, NEW_BLOCKS, NEW_FILL).await;
    }
    let report = pool.check(true, |_, _| {}).await;
    assert!(report.is_ok(), "{report:?}");
    done
}

async fn write(pool: &LocalPool, name: &str, first: u64, count: u64, with: u64) -> Result<()> {
    let volume = pool.open(&name.parse()?)?;
    volume.write(first * BLOCK, fill_run(with, first..first + count), false).await?;
    volume.flush().await
}

impl Done {
    /// What the pool may show if it held `before`.
    fn on(&self, before: &Contents) -> Allowed {
        let mut allowed = Allowed::only(before);
        for (name, first, with, sure) in &self.writes {
            if let Some(expected) = allowed.0.get_mut(name) {
                expected.write(*first..first + REWRITTEN, *with, *sure);
            }
        }
        for (name, sure) in &self.deleted {
            if *sure {
                let _gone = allowed.0.remove(name);
            } else if let Some(expected) = allowed.0.get_mut(name) {
                expected.sure = false;
            }
        }
        let mut new = Expected::empty(self.created, MIB);
        new.write(0..NEW_BLOCKS, NEW_FILL, self.created);
        let _none = allowed.0.insert(NEW.to_owned(), new);
        allowed
    }
}
