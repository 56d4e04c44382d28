//! Looking at objects: only those of the caller's project are there, but for administrators.

use super::{Block, Caller};
use crate::{
    catalog::{Attachment, Backup, Intent, Message, Op, Record, Snapshot, Source, Transfer, Tx, Volume},
    fault::{Answer, Fault},
};

/// What belongs to a project.
pub(crate) trait Owned: Record {
    /// Its project.
    fn project(&self) -> &str;
}

macro_rules! owned {
    ($($kind:ty),*) => {$(
        impl Owned for $kind {
            fn project(&self) -> &str {
                &self.project
            }
        }
    )*};
}
owned!(Volume, Snapshot, Backup, Attachment, Transfer, Message);

/// An object of the caller.
pub(super) fn owned<R: Owned>(tx: &Tx<'_>, caller: &Caller, id: &str) -> Answer<R> {
    match tx.get::<R>(id)? {
        Some(object) if caller.sees(object.project()) => Ok(object),
        _ => Err(Fault::missing(R::KIND.name, id)),
    }
}

/// Whether something is under way with an object.
pub(super) fn busy<R: Record>(tx: &Tx<'_>, id: &str) -> Answer<bool> {
    Ok(tx.get::<Intent>(&Intent::key(R::KIND, id))?.is_some())
}

/// Refuses what would take away from an operation under way what it reads.
pub(super) fn not_read_by_others(tx: &Tx<'_>, kind: &str, id: &str) -> Answer<()> {
    let reads = |intent: &Intent| match &intent.op {
        Op::CreateVolume { source: Source::Snapshot { snapshot, .. } } => snapshot == id,
        Op::CreateVolume { source: Source::Volume(volume) } => volume == id,
        Op::CreateVolume { source: Source::Backup(backup) } => backup == id,
        Op::RestoreBackup { volume } => volume == id,
        _ => false,
    };
    match tx.all::<Intent>()?.iter().find(|intent| reads(intent)) {
        Some(intent) => Err(Fault::conflict(format!(
            "{kind} {id} is needed by an operation under way with {}: wait until that has ended",
            intent.object()
        ))),
        None => Ok(()),
    }
}

impl Block {
    /// An object of the caller.
    pub(crate) fn find<R: Owned>(&self, caller: &Caller, id: &str) -> Answer<R> {
        owned(&self.inner.catalog.read(), caller, id)
    }
}
