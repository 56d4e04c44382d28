//! The pool's volumes and snapshots as exports.

use crate::handshake::{Exports, Opened};
use cairn_engine::{Error, ErrorKind, LocalPool, LocalVolume, Result, Target};

/// What the pool holds, under the names `volume` and `volume@snapshot`.
pub(crate) struct PoolExports {
    pool: LocalPool,
    /// Volumes, too, can only be read.
    read_only: bool,
}

/// A snapshot that a connection compares with. It is held open, so that it cannot be deleted meanwhile.
pub(crate) struct Base {
    pub(crate) target: Target,
    _held: LocalVolume,
}

impl PoolExports {
    pub(crate) fn new(pool: LocalPool, read_only: bool) -> Self {
        Self { pool, read_only }
    }

    /// The default export: the pool's only volume.
    fn default_target(&self) -> Result<Target> {
        match &self.pool.list_volumes()[..] {
            [only] => Ok(Target { volume: only.name.clone(), snapshot: None }),
            [] => Err(Error::new(ErrorKind::NotFound, "the pool has no volume yet: create one")),
            several => {
                let text = format!("the pool has {} volumes and so no default export: name one", several.len());
                Err(Error::new(ErrorKind::NotFound, text))
            }
        }
    }
}

impl Exports for PoolExports {
    type Export = LocalVolume;
    type Base = Base;

    fn list(&self) -> Result<Vec<(String, String)>> {
        let mut exports: Vec<_> =
            self.pool.list_volumes().into_iter().map(|volume| (volume.name, "volume".to_owned())).collect();
        for snapshot in self.pool.list_snapshots(None)? {
            exports.push((format!("{}@{}", snapshot.volume, snapshot.name), "snapshot, read-only".to_owned()));
        }
        exports.sort_unstable();
        Ok(exports)
    }

    fn open(&self, name: &str) -> Result<Opened<LocalVolume>> {
        let target = if name.is_empty() { self.default_target()? } else { name.parse()? };
        let export = self.pool.open(&target)?;
        let description = if target.snapshot.is_some() { "snapshot, read-only" } else { "volume" };
        Ok(Opened {
            name: target.to_string(),
            size: export.size(),
            read_only: self.read_only || export.is_read_only(),
            description: description.to_owned(),
            export,
        })
    }

    fn snapshots(&self, export: &Opened<LocalVolume>) -> Result<Vec<String>> {
        let snapshots = self.pool.list_snapshots(Some(volume_of(&export.name)))?;
        Ok(snapshots.into_iter().map(|snapshot| snapshot.name).collect())
    }

    fn base(&self, export: &Opened<LocalVolume>, name: &str) -> Result<Base> {
        let target: Target = match name.contains('@') {
            true => name.parse()?,
            false => format!("{}@{name}", volume_of(&export.name)).parse()?,
        };
        if target.snapshot.is_none() {
            return Err(Error::new(ErrorKind::Invalid, format!("{name} names no snapshot: write volume@snapshot")));
        }
        let held = self.pool.open(&target)?;
        Ok(Base { target, _held: held })
    }
}

/// The volume in `volume` or `volume@snapshot`.
fn volume_of(name: &str) -> &str {
    name.split_once('@').map_or(name, |(volume, _)| volume)
}
