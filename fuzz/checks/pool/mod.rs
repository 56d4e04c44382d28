//! A damaged pool: it is refused, or read as it was at some moment; what cannot be trusted is an error.

mod allowed;
mod disk;
mod history;
mod seen;
mod work;

use self::{
    allowed::Allowed,
    disk::{Bytes, Scratch},
    history::{Contents, History, Moment},
    seen::{Seen, look},
};
use cairn_engine::{ErrorKind, OpenOptions, Pool, StorageKind};
use pollster::block_on;
use std::{path::Path, sync::OnceLock};

static HISTORY: OnceLock<History> = OnceLock::new();

/// The first byte chooses a moment and whether the pool is written to as well; the rest describes the damage.
pub(crate) fn pool(input: &[u8]) -> bool {
    let mut script = Bytes(input);
    let Some(choice) = script.next() else { return false };
    let history = HISTORY.get_or_init(History::write);
    let now = usize::from(choice & 0x7f) % history.moments.len();
    let moment = &history.moments[now];
    let earlier: Vec<_> = history.moments[..now].iter().map(|moment| &moment.disk).collect();
    let (mut disk, used) = (moment.disk.clone(), moment.disk.used());
    while let Some(kind) = script.next() {
        disk.suffer(kind, &mut script, &earlier, &used);
    }
    let intact = disk == moment.disk;

    let file = Scratch::new(&disk);
    let Some(seen) = look(&file.path(), &history.probes) else {
        assert!(!intact, "an intact pool is refused");
        return false;
    };
    // Damage to one block can pass for a last commit that was interrupted, and for nothing else.
    let oldest = match disk.differences(&moment.disk) {
        0 => now,
        1 => now.saturating_sub(1),
        _ => 0,
    };
    let states = states(&seen, &history.moments[oldest..=now]);
    assert!(!intact || seen.clean, "an intact pool has problems: {:?}", seen.problems);
    if choice & 0x80 != 0 {
        work::go_on(&file.path(), &states, &history.probes, intact);
    }
    true
}

/// The contents of the moments that what is seen agrees with.
fn states<'a>(seen: &Seen, moments: &'a [Moment]) -> Vec<&'a Contents> {
    let mut states: Vec<&Contents> = Vec::new();
    let mut faults = Vec::new();
    for moment in moments {
        match Allowed::only(&moment.contents).matches(seen) {
            Ok(()) if !states.contains(&&moment.contents) => states.push(&moment.contents),
            Ok(()) => {}
            Err(fault) => faults.push(fault),
        }
    }
    assert!(!states.is_empty(), "the pool is as it never was: {faults:#?}");
    states
}

fn options() -> OpenOptions {
    OpenOptions::new().storage(StorageKind::Pread)
}

/// Opens the pool, unless that is refused for a reason that damage can give.
fn open(path: &Path, options: OpenOptions) -> Option<Pool> {
    match block_on(Pool::open(path, options)) {
        Ok(pool) => Some(pool),
        Err(error) => {
            let reasonable = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Invalid | ErrorKind::Io);
            assert!(reasonable, "{:?}: {error}", error.kind());
            None
        }
    }
}
