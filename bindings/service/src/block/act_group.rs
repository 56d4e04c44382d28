//! What the engine does for several volumes at one moment. It, too, can be done again: the engine takes all of the snapshots or none.

use cairn_engine::{ErrorKind, Target};

use super::{
    Block,
    act::{again, clone_target, target},
    work,
};
use crate::{
    catalog::{Snapshot, Source, Volume, engine_volume},
    domain::GIB,
    fault::Answer,
};

impl Block {
    fn targets(&self, snapshots: &[String]) -> Answer<Vec<Target>> {
        let tx = self.inner.catalog.read();
        snapshots.iter().map(|id| Ok(target(&tx.require::<Snapshot>(id)?.volume_id, id))).collect()
    }

    pub(super) async fn freeze_together(&self, snapshots: &[String]) -> Answer<()> {
        again(self.inner.pool.snapshot(&self.targets(snapshots)?).await, ErrorKind::Exists)?;
        self.step(work::GROUP_SNAPSHOT).await;
        Ok(())
    }

    pub(super) async fn delete_together(&self, snapshots: &[String]) -> Answer<()> {
        for target in self.targets(snapshots)? {
            again(self.inner.pool.delete_snapshot(&target).await, ErrorKind::NotFound)?;
            self.step(work::GROUP_SNAPSHOT_DELETED).await;
        }
        Ok(())
    }

    /// The volumes of a new group: from snapshots, or from volumes as they all are at one moment.
    pub(super) async fn make_group(&self, members: &[(String, Source)]) -> Answer<()> {
        let through: Vec<Target> = members
            .iter()
            .filter_map(|(new, source)| match source {
                Source::Volume(source) => Some(clone_target(source, new)),
                _ => None,
            })
            .collect();
        let cloned = self.clone_members(members, &through).await;
        if cloned.is_err() && !through.is_empty() {
            // Before the snapshots: done once more after the end of the service, the others would be of another moment.
            self.delete_clones(members).await?;
        }
        self.delete_all(&through).await?;
        cloned?;
        for (new, _) in members {
            self.apply_limits(new).await?;
        }
        self.step(work::LIMITED).await;
        Ok(())
    }

    async fn delete_clones(&self, members: &[(String, Source)]) -> Answer<()> {
        for (new, _) in members {
            again(self.inner.pool.delete_volume(&engine_volume(new), true).await, ErrorKind::NotFound)?;
            self.step(work::GROUP_CLONE_GONE).await;
        }
        Ok(())
    }

    async fn delete_all(&self, snapshots: &[Target]) -> Answer<()> {
        for target in snapshots {
            again(self.inner.pool.delete_snapshot(target).await, ErrorKind::NotFound)?;
        }
        Ok(())
    }

    async fn clone_members(&self, members: &[(String, Source)], through: &[Target]) -> Answer<()> {
        let volumes: Vec<Volume> = {
            let tx = self.inner.catalog.read();
            members.iter().map(|(new, _)| tx.require(new)).collect::<Answer<_>>()?
        };
        let mut there = 0;
        for volume in &volumes {
            match self.inner.pool.volume_info(&volume.engine_name()).await {
                Ok(_) => there += 1,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        if there == volumes.len() {
            return Ok(());
        }
        // Those that are there were cloned from these very snapshots, which go only when all are there, or none any more: then some of the
        // snapshots may have gone already.
        if there == 0 {
            self.delete_all(through).await?;
        }
        if !through.is_empty() {
            again(self.inner.pool.snapshot(through).await, ErrorKind::Exists)?;
            self.step(work::GROUP_SNAPSHOT).await;
        }
        for (volume, (new, source)) in volumes.iter().zip(members) {
            let from = match source {
                Source::Snapshot { volume, snapshot } => target(volume, snapshot),
                Source::Volume(source) => clone_target(source, new),
                _ => continue,
            };
            let made = self.inner.pool.clone_volume(&from, &volume.engine_name(), Some(volume.size * GIB)).await;
            again(made, ErrorKind::Exists)?;
            self.step(work::GROUP_CLONED).await;
        }
        Ok(())
    }
}
