//! The pool's volumes and snapshots as exports.

use crate::handshake::{Exports, Opened};
use cairn_engine::{Error, ErrorKind, LocalPool, LocalVolume, Result, Target};
use std::{fmt, sync::Arc};

/// What clients of a server may open, in place of everything that the pool has ([`Options::offers`](crate::Options::offers)).
///
/// The names are the offers' own: whoever knows one may open what stands behind it, so they are to be such that nobody guesses them. They
/// are listed for nobody, and lead to nothing else in the pool.
pub trait Offers: fmt::Debug + Send + Sync {
    /// What is offered under a name, if anything is. The reactor's thread asks: it must not be kept waiting.
    fn find(&self, name: &str) -> Option<Offer>;
}

/// What stands behind a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The volume or snapshot.
    pub target: Target,
    /// Whether it takes no writes in this way.
    pub read_only: bool,
}

/// What the pool holds, under the names `volume` and `volume@snapshot`.
pub(crate) struct PoolExports {
    pool: LocalPool,
    /// Volumes, too, can only be read.
    read_only: bool,
    /// All that there is for clients, if not all.
    offers: Option<Arc<dyn Offers>>,
}

/// A snapshot that a connection compares with. It is held open, so that it cannot be deleted meanwhile.
pub(crate) struct Base {
    pub(crate) target: Target,
    _held: LocalVolume,
}

impl PoolExports {
    pub(crate) fn new(pool: LocalPool, read_only: bool, offers: Option<Arc<dyn Offers>>) -> Self {
        Self { pool, read_only, offers }
    }

    /// What a name means to clients.
    fn offer(&self, name: &str) -> Result<Offer> {
        let all = |target| Offer { target, read_only: false };
        match &self.offers {
            Some(offers) => offers.find(name).ok_or_else(|| {
                let text = "nothing is offered under this name: take it from the volume's connection as it is now";
                Error::new(ErrorKind::NotFound, text)
            }),
            None if name.is_empty() => self.default_target().map(all),
            None => name.parse().map(all),
        }
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
        if self.offers.is_some() {
            return Ok(Vec::new());
        }
        let mut exports: Vec<_> =
            self.pool.list_volumes().into_iter().map(|volume| (volume.name, "volume".to_owned())).collect();
        for snapshot in self.pool.list_snapshots(None)? {
            exports.push((format!("{}@{}", snapshot.volume, snapshot.name), "snapshot, read-only".to_owned()));
        }
        exports.sort_unstable();
        Ok(exports)
    }

    fn open(&self, name: &str) -> Result<Opened<LocalVolume>> {
        let Offer { target, read_only } = self.offer(name)?;
        let export = self.pool.open(&target)?;
        let description = if target.snapshot.is_some() { "snapshot, read-only" } else { "volume" };
        Ok(Opened {
            // An offer's name is the only one that clients learn.
            name: if self.offers.is_some() { name.to_owned() } else { target.to_string() },
            size: export.size(),
            read_only: self.read_only || read_only || export.is_read_only(),
            description: description.to_owned(),
            export,
        })
    }

    fn snapshots(&self, export: &Opened<LocalVolume>) -> Result<Vec<String>> {
        if self.offers.is_some() {
            return Ok(Vec::new());
        }
        let snapshots = self.pool.list_snapshots(Some(volume_of(&export.name)))?;
        Ok(snapshots.into_iter().map(|snapshot| snapshot.name).collect())
    }

    fn base(&self, export: &Opened<LocalVolume>, name: &str) -> Result<Base> {
        if self.offers.is_some() {
            // It would be held open, and so kept from being deleted, and may be somebody else's.
            return Err(Error::new(ErrorKind::NotFound, "no snapshots are offered to compare with"));
        }
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
