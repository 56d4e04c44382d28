//! Looking at objects: only those of the caller's project are there, but for administrators.

use super::{Block, Caller};
use crate::{
    catalog::{
        Attachment, Backup, Group, GroupSnapshot, Image, Intent, Message, Op, Record, Snapshot, Source, Transfer, Tx,
        Volume,
    },
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
owned!(Volume, Snapshot, Backup, Attachment, Transfer, Message, Group, GroupSnapshot, Image);

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

/// Refuses what would take away from an operation under way what it reads, or what it makes together with others.
pub(super) fn not_read_by_others(tx: &Tx<'_>, kind: &str, id: &str) -> Answer<()> {
    let is_source = |source: &Source| match source {
        Source::Snapshot { snapshot, .. } => snapshot == id,
        Source::Volume(volume) => volume == id,
        Source::Backup(backup) | Source::BackupAtOnce(backup) => backup == id,
        Source::Image(image) => image == id,
        Source::Empty => false,
    };
    let reads = |intent: &Intent| match &intent.op {
        Op::CreateVolume { source } => is_source(source),
        Op::RestoreBackup { volume } => volume == id,
        Op::ImageOfVolume { volume, released } => volume == id && !released,
        Op::CreateGroup { members } => members.iter().any(|(new, source)| new == id || is_source(source)),
        Op::DeleteGroup { volumes } => volumes.iter().any(|volume| volume == id),
        Op::CreateGroupSnapshot { snapshots } | Op::DeleteGroupSnapshot { snapshots } => {
            snapshots.iter().any(|snapshot| snapshot == id)
                || kind == "volume" && is_frozen(tx, snapshots, id).unwrap_or(true)
        }
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

/// Refuses what would change a volume, or who has it, while an operation under way freezes or copies it: what that makes is recorded already,
/// with the size and for the project of the moment in which it was asked for.
pub(super) fn not_copied_now(tx: &Tx<'_>, volume: &str) -> Answer<()> {
    not_read_by_others(tx, "volume", volume)?;
    for intent in tx.all::<Intent>()? {
        let copies = match &intent.op {
            Op::CreateSnapshot => {
                tx.get::<Snapshot>(intent.object())?.is_some_and(|snapshot| snapshot.volume_id == volume)
            }
            // One of a snapshot leaves the volume alone.
            Op::CreateBackup { .. } => tx
                .get::<Backup>(intent.object())?
                .is_some_and(|backup| backup.volume_id == volume && backup.snapshot_id.is_none()),
            _ => false,
        };
        if copies {
            let (kind, id) = (intent.kind(), intent.object());
            return Err(Fault::conflict(format!(
                "{kind} {id} of volume {volume} is being made: wait until it is there"
            )));
        }
    }
    Ok(())
}

/// Whether one of these snapshots is of this volume.
fn is_frozen(tx: &Tx<'_>, snapshots: &[String], volume: &str) -> Answer<bool> {
    for id in snapshots {
        if tx.get::<Snapshot>(id)?.is_some_and(|snapshot| snapshot.volume_id == volume) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Block {
    /// An object of the caller.
    pub(crate) fn find<R: Owned>(&self, caller: &Caller, id: &str) -> Answer<R> {
        owned(&self.inner.catalog.read(), caller, id)
    }
}
