//! Volumes that are filled from a backup while they are in use: who fills them, and when they are full.

use std::rc::Rc;

use crate::{
    admin::LocalPool,
    error::{Result, invalid, not_found},
    gate::Filler,
    info::{VolumeInfo, VolumeOptions},
    state::Need,
    units::VolumeId,
    versions::Version,
    volume::{LocalVolume, Opened, Role},
};

impl LocalPool {
    /// Registers what fills a volume, or removes it. With a filler the volume can be opened: whoever touches a range of it waits until the
    /// filler has filled it. Without one, it cannot be opened, and who has it open is refused. The pool lets go of it when the volume is
    /// full or deleted, and when it is closed; a pool that ends otherwise is kept in memory by a filler that holds it.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` when the volume is not filling; `Busy` when it has a filler.
    pub fn set_filler(&self, volume: &str, filler: Option<Rc<dyn Filler>>) -> Result<()> {
        match filler {
            Some(filler) => self.register_filler(volume, filler).map(drop),
            None => {
                self.core.gates.unregister(self.filling(volume)?, None);
                Ok(())
            }
        }
    }

    /// Registers a filler; returns the volume, and the filler's number.
    pub(crate) fn register_filler(&self, volume: &str, filler: Rc<dyn Filler>) -> Result<(VolumeId, u64)> {
        let id = self.filling(volume)?;
        let number = self.core.gates.register(id, volume, filler)?;
        Ok((id, number))
    }

    fn filling(&self, volume: &str) -> Result<VolumeId> {
        let state = self.core.state.borrow();
        let version = state.lineage.require_volume(volume)?;
        must_fill(version)?;
        Ok(version.volume)
    }

    /// Opens a volume that is filling as its filler sees it: holes are holes, and nothing waits.
    ///
    /// Where there is data, the block is as it should be: filled, or written by users since, before a crash too. So what is written through this
    /// handle goes to holes alone, whatever else is being written; zeros are left out, since holes are zeros. Writes are of whole blocks, or up to
    /// the volume's end, and holes cannot be made (`Invalid`). Once the volume is full, what is still on its way is left out, and this handle
    /// only reads.
    ///
    /// A filler need not remember anything. But what it calls filled must be in the volume by then.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` when the volume is not filling; `Busy` during a repair.
    pub fn open_to_fill(&self, volume: &str) -> Result<LocalVolume> {
        self.not_repairing()?;
        let opened = Opened::Volume(self.filling(volume)?);
        Ok(LocalVolume::new(self.core.clone(), opened, volume.to_owned(), Role::Filler))
    }

    /// The volume holds all of its content: from here on it is like any other, for those too who have it open. Durable, with everything
    /// that was written before, when it returns.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` when the volume is not filling; `NoSpace`, `ReadOnly`.
    pub async fn filled(&self, volume: &str) -> Result<VolumeInfo> {
        let id = self.core.state.borrow().lineage.require_volume(volume)?.volume;
        self.finish_filling(id).await
    }

    /// The same, whatever the volume is called by now.
    pub(crate) async fn finish_filling(&self, id: VolumeId) -> Result<VolumeInfo> {
        self.admit(Need::Change).await?;
        {
            let mut state = self.core.state.borrow_mut();
            let live = state.lineage.live_of(id).ok_or_else(|| not_found("the volume was deleted meanwhile"))?;
            must_fill(live)?;
            let (version, options) = (live.id, VolumeOptions { filling: false, ..live.options.clone() });
            state.set_options(version, options);
        }
        // With the record and not after it: what others do from here on comes behind it in the journal.
        self.core.gates.fall(id);
        self.core.apply_cache(id, &self.core.backlogs.of(id));
        self.core.flush().await?;
        self.brief_of(id)
    }
}

/// Only a volume that is filling has a filler, and only such a one becomes full.
fn must_fill(volume: &Version) -> Result<()> {
    if !volume.options.filling {
        return Err(invalid(format!("volume {:?} is not being filled from a backup", volume.name)));
    }
    Ok(())
}
