//! What an export serves: a volume or a snapshot by its identity, whatever it is called by now.
//!
//! A front-end that comes back must find the disk that it had. Names do not promise that: the volume may have been renamed, and another be
//! called as it was.

use cairn_engine::{Error, ErrorKind, LocalPool, Result, Target, VersionId, VolumeId};

/// Identity of a volume or snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Volume(VolumeId),
    Snapshot(VersionId),
}

impl Source {
    /// The identity behind a name.
    pub(crate) fn of(pool: &LocalPool, target: &Target) -> Result<Self> {
        let found = match &target.snapshot {
            None => {
                pool.list_volumes().into_iter().find(|volume| volume.name == target.volume).map(|v| Self::Volume(v.id))
            }
            Some(_) => {
                let snapshots = pool.list_snapshots(Some(&target.volume))?;
                let found = snapshots.into_iter().find(|snapshot| target.snapshot.as_ref() == Some(&snapshot.name));
                found.map(|snapshot| Self::Snapshot(snapshot.version))
            }
        };
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no {target}")))
    }

    /// What it is called now. None when it was deleted.
    pub(crate) fn target(self, pool: &LocalPool) -> Option<Target> {
        match self {
            Self::Volume(id) => {
                let volume = pool.list_volumes().into_iter().find(|volume| volume.id == id)?;
                Some(Target { volume: volume.name, snapshot: None })
            }
            Self::Snapshot(id) => {
                let snapshots = pool.list_snapshots(None).ok()?;
                let snapshot = snapshots.into_iter().find(|snapshot| snapshot.version == id)?;
                Some(Target { volume: snapshot.volume, snapshot: Some(snapshot.name) })
            }
        }
    }
}
