//! What a client does with versions: snapshots, clones, reverts, deletions, names, sizes, differences.

use super::*;

impl Client {
    pub(super) async fn snapshot(&self) -> Go {
        let mut taken = vec![(self.pick(), self.name("s"))];
        let other = self.pick();
        if other != taken[0].0 && self.below(2) == 0 {
            taken.push((other, self.name("s")));
        }
        let targets: Vec<Target> = taken.iter().map(|(v, s)| target(v, Some(s))).collect();
        self.versions(Effect::Snapshot { taken }, self.pool().snapshot(&targets)).await
    }

    pub(super) async fn clone_one(&self) -> Go {
        let Some((volume, snapshot)) = self.pick_snapshot() else { return Go::On };
        let name = self.name(kind_of(&volume));
        let from = target(&volume, Some(&snapshot));
        let size = self.history.borrow().size_of(&volume, &snapshot) + MIB * self.below(2);
        let effect = Effect::Clone { volume, snapshot, name: name.clone(), size };
        self.versions(effect, self.pool().clone_volume(&from, &name, Some(size))).await
    }

    pub(super) async fn delete_snapshot(&self) -> Go {
        let Some((volume, snapshot)) = self.pick_snapshot() else { return Go::On };
        let from = target(&volume, Some(&snapshot));
        self.versions(Effect::DeleteSnapshot { volume, snapshot }, self.pool().delete_snapshot(&from)).await
    }

    pub(super) async fn delete_volume(&self) -> Go {
        let name = self.pick();
        self.stop_restore(&name);
        let deletion = self.pool().delete_volume(&name, true);
        let go = self.versions(Effect::DeleteVolume { name: name.clone() }, deletion).await;
        self.start_restore(&name);
        go
    }

    pub(super) async fn revert(&self) -> Go {
        let Some((volume, snapshot)) = self.pick_snapshot() else { return Go::On };
        let effect = Effect::Revert { volume: volume.clone(), snapshot: snapshot.clone() };
        self.versions(effect, self.pool().revert(&volume, &snapshot, false)).await
    }

    pub(super) async fn resize(&self) -> Go {
        let name = self.pick();
        let (size, _) = self.live_of(&name);
        let size = size + [SECTOR, 64 * 1024, MIB, 300 * MIB][self.below(4) as usize];
        self.versions(Effect::Resize { name: name.clone(), size }, self.pool().resize(&name, size)).await
    }

    pub(super) async fn rename(&self) -> Go {
        let from = self.pick();
        let to = self.name(kind_of(&from));
        let effect = Effect::Rename { from: from.clone(), to: to.clone() };
        self.versions(effect, self.pool().rename(&from, &to)).await
    }

    /// Limits of a volume, which has them when it is answered; of its group and the pool, which nobody looks at but who waits for them.
    pub(super) async fn limit(&self) -> Go {
        // Limits are no part of the volume: they do not wait for what it has in memory.
        if self.shared.habits.writeback && self.pool().checkpoint().await.is_err() {
            return if self.stopped() { Go::Stop } else { Go::On };
        }
        let name = self.pick();
        let iops = [None, Some(50 + self.below(5000))][self.below(2) as usize].map(|iops| iops.to_string());
        let group = [None, Some(format!("g{}", self.number))][self.below(2) as usize].clone();
        let change = |key: &str, value: &Option<String>| (key.to_owned(), value.clone());
        let depth = Some((1 + self.below(64)).to_string());
        let shared = [
            (QosTarget::Pool, vec![change("queue_depth", &depth)]),
            (QosTarget::Group(format!("g{}", self.number)), vec![change("total_iops_sec", &iops)]),
        ];
        let (target, changes) = &shared[self.below(2) as usize];
        if self.versions(Effect::None, self.pool().set_qos(target, changes)).await == Go::Stop {
            return Go::Stop;
        }
        let limits = iops.as_ref().map(|iops| format!("write_iops_sec={iops}")).unwrap_or_default();
        let limits = format!("{limits} {}", group.as_deref().unwrap_or_default()).trim().to_owned();
        let changes = [change("write_iops_sec", &iops), change("group", &group)];
        let target = QosTarget::Volume(name.clone());
        self.versions(Effect::Limit { name, limits }, self.pool().set_qos(&target, &changes)).await
    }

    /// Every block in which two versions differ is in their difference, and what it calls data is no hole.
    pub(super) async fn diff(&self) -> Go {
        let Some((from_volume, snapshot)) = self.pick_snapshot() else { return Go::On };
        let volume = self.pick();
        let (from, to) = (target(&from_volume, Some(&snapshot)), target(&volume, None));
        let old = self.history.borrow().content(&from_volume, Some(&snapshot));
        let new = self.history.borrow().content(&volume, None);
        let (before, restored) = (excuses(&self.shared.disk), self.has_restored());
        let mut changed = std::collections::BTreeMap::new();
        let mut offset = Some(0);
        while let Some(at) = offset {
            let page = match self.pool().diff(Some(&from), &to, at).await {
                Ok(page) => page,
                Err(e) => {
                    let waits = restored && e.kind() == ErrorKind::Busy;
                    assert!(waits || self.excused(&e, before), "{from} {to}: {e}");
                    return Go::On;
                }
            };
            for extent in page.extents {
                for block in extent.offset / BLOCK..(extent.offset + extent.length).div_ceil(BLOCK) {
                    let _new = changed.insert(block, extent.kind);
                }
            }
            offset = page.next;
        }
        let end = self.live_of(&volume).0 / SECTOR;
        for sector in old.sectors().keys().chain(new.sectors().keys()).filter(|s| **s < end) {
            let listed = changed.contains_key(&(sector / PER_BLOCK));
            assert!(
                listed || old.get(*sector) == new.get(*sector),
                "{from} {to}: sector {sector} is not in the difference"
            );
        }
        for (block, kind) in changed {
            let mut sectors = new.sectors().range(block * PER_BLOCK..(block + 1) * PER_BLOCK);
            let data = sectors.next().is_some();
            // Zeros that were written while the volume was filling are data.
            let zeros = kind == ExtentKind::Data && is_restored(&volume);
            assert!(zeros || data == (kind == ExtentKind::Data), "{from} {to}: block {block} is called {kind:?}");
        }
        Go::On
    }
}
