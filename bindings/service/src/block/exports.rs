//! Volumes over NBD. Whoever knows the name of an export may open it, so each has a name that nobody guesses, for as long as there is a
//! consumer.
//!
//! Invariants:
//! - The daemon's servers offer what is here and nothing else: no image, no snapshot, no volume without a consumer.
//! - What is here is in the catalog too ([`Volume::exports`]), so consumers come back when the service was started anew.
//! - A name is made with the first connection. It goes with the last attachment that was told one, before the first of others is told one, and
//!   before anybody can take over the volume; whoever has the volume open in this way is cut off then. What comes later has another name.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cairn_engine::Target;
use cairn_nbd::{Offer, Offers};

use super::Block;
use crate::{
    catalog::{Catalog, Export, Volume, engine_volume},
    fault::Answer,
    secrets,
};

/// What is offered, by the hash of its name: looking for one tells nothing of the others, however long it takes.
#[derive(Debug, Default)]
pub(crate) struct Exports {
    offered: Mutex<BTreeMap<[u8; 32], Offer>>,
}

impl Exports {
    /// Those of a catalog.
    pub(crate) fn of(catalog: &Catalog) -> Answer<Arc<Self>> {
        let exports = Self::default();
        for volume in catalog.read().all::<Volume>()? {
            volume.exports.iter().for_each(|export| exports.offer(&volume, export));
        }
        Ok(Arc::new(exports))
    }

    fn offered(&self) -> MutexGuard<'_, BTreeMap<[u8; 32], Offer>> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offer(&self, volume: &Volume, export: &Export) {
        let target = Target { volume: volume.engine_name(), snapshot: None };
        let offer = Offer { target, read_only: export.read_only };
        drop(self.offered().insert(hash(&export.name), offer));
    }

    fn withdraw(&self, engine_name: &str) {
        self.offered().retain(|_, offer| offer.target.volume != engine_name);
    }
}

fn hash(name: &str) -> [u8; 32] {
    *blake3::hash(name.as_bytes()).as_bytes()
}

impl Offers for Exports {
    fn find(&self, name: &str) -> Option<Offer> {
        self.offered().get(&hash(name)).cloned()
    }
}

impl Block {
    /// The name under which consumers open a volume; made if there is none. The caller holds the volume's tie.
    pub(super) fn export(&self, id: &str, read_only: bool) -> Answer<String> {
        let (volume, export) = self.inner.catalog.write(|tx| {
            let mut volume: Volume = tx.require(id)?;
            let known = volume.exports.iter().find(|export| export.read_only == read_only).cloned();
            if let Some(known) = known {
                return Ok((volume, known));
            }
            let export = Export { name: format!("{}.{}", volume.engine_name(), secrets::random(32)), read_only };
            volume.exports.push(export.clone());
            tx.put(&volume)?;
            Ok((volume, export))
        })?;
        self.inner.exports.offer(&volume, &export);
        Ok(export.name)
    }

    /// Nobody comes to a volume over NBD any more, and whoever has it open is cut off. The caller holds the volume's tie.
    pub(super) async fn close_exports(&self, id: &str) -> Answer<()> {
        self.inner.catalog.write(|tx| match tx.get::<Volume>(id)? {
            Some(mut volume) if !volume.exports.is_empty() => {
                volume.exports.clear();
                tx.put(&volume)
            }
            _ => Ok(()),
        })?;
        let name = engine_volume(id);
        self.inner.exports.withdraw(&name);
        for listener in &self.inner.listeners {
            listener.server().cut_off(&name).await?;
        }
        Ok(())
    }
}
