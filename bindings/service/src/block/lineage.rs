//! Versions: what a volume or snapshot comes from, and what two of them differ in.

use cairn_engine::{ExtentPage, Target};

use super::{Block, Caller, act::target, views::owned};
use crate::{
    catalog::{Snapshot, Volume, engine_volume},
    fault::{Answer, Fault},
};

/// Longest lineage that is followed.
const LONGEST: usize = 10_000;

/// What a version is to the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkKind {
    /// A volume as it is now.
    Volume(Box<Volume>),
    /// A snapshot of the catalog.
    Snapshot(Box<Snapshot>),
    /// One that the service keeps for itself, as for the next backup.
    Internal,
    /// One of another project.
    Hidden,
}

/// A version in a lineage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) kind: LinkKind,
    /// Bytes.
    pub(crate) size: u64,
    /// Bytes of data that it refers to, shared or not.
    pub(crate) allocated: u64,
    pub(crate) created_ms: u64,
}

impl Block {
    /// A volume and what it comes from, the newest first: through clones too, as far as there is anything left of it.
    pub(crate) async fn lineage(&self, caller: &Caller, id: &str) -> Answer<Vec<Link>> {
        let volume: Volume = self.find(caller, id)?;
        let info = self.inner.pool.volume_info(&volume.engine_name()).await?;
        let mut next = info.parent.clone();
        let mut chain = vec![Link {
            kind: LinkKind::Volume(Box::new(volume)),
            size: info.size,
            allocated: info.allocated,
            created_ms: info.created_ms,
        }];
        while let Some(parent) = next.take().filter(|_| chain.len() < LONGEST) {
            let parent: Target = parent.parse()?;
            // It may be deleted between two looks.
            let Ok(info) = self.inner.pool.snapshot_info(&parent).await else { break };
            next = info.parent.clone();
            let kind = self.kind_of(caller, &info.name)?;
            chain.push(Link { kind, size: info.size, allocated: info.allocated, created_ms: info.created_ms });
        }
        Ok(chain)
    }

    fn kind_of(&self, caller: &Caller, name: &str) -> Answer<LinkKind> {
        let Some(id) = name.strip_prefix("snapshot-") else { return Ok(LinkKind::Internal) };
        Ok(match self.inner.catalog.read().get::<Snapshot>(id)? {
            Some(snapshot) if caller.sees(&snapshot.project) => LinkKind::Snapshot(Box::new(snapshot)),
            Some(_) => LinkKind::Hidden,
            None => LinkKind::Internal,
        })
    }

    /// What the engine calls a volume or snapshot of the caller.
    fn version(&self, caller: &Caller, id: &str) -> Answer<Target> {
        let tx = self.inner.catalog.read();
        if let Ok(snapshot) = owned::<Snapshot>(&tx, caller, id) {
            return Ok(target(&snapshot.volume_id, id));
        }
        match owned::<Volume>(&tx, caller, id) {
            Ok(_) => Ok(Target { volume: engine_volume(id), snapshot: None }),
            Err(_) => Err(Fault::missing("Volume or snapshot", id)),
        }
    }

    /// A page of what the newer version has otherwise than the older one.
    pub(crate) async fn diff(&self, caller: &Caller, from: Option<&str>, to: &str, offset: u64) -> Answer<ExtentPage> {
        let from = from.map(|id| self.version(caller, id)).transpose()?;
        let to = self.version(caller, to)?;
        Ok(self.inner.pool.diff(from.as_ref(), &to, offset).await?)
    }
}
