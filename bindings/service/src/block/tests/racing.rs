//! Many clients at once, over few objects, each doing what comes to its mind. Whatever is refused, no quota is ever exceeded, and what is
//! left is whole.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use super::world::{World, admin};
use crate::{
    block::{
        Block, Caller, GroupEdit, GroupSource, NewAttachment, NewBackup, NewGroup, NewGroupSnapshot, NewSnapshot,
        NewType, NewVolume,
    },
    catalog::{Attachment, Backup, Group, GroupSnapshot, Record, Snapshot, Volume, VolumeType},
    domain::{
        AttachmentStatus, BackupStatus, GroupSnapshotStatus, GroupStatus, QuotaKey, Resource, SnapshotStatus,
        VolumeStatus, new_id,
    },
    fault::{Answer, FaultKind},
};

const CLIENTS: u64 = 8;
/// What each client does.
const TURNS: usize = 80;
/// Few, so that many requests come to them.
const LIMITS: [(Resource, i64); 6] = [
    (Resource::Volumes, 10),
    (Resource::Snapshots, 12),
    (Resource::Gigabytes, 40),
    (Resource::Backups, 6),
    (Resource::BackupGigabytes, 10),
    (Resource::Groups, 3),
];

macro_rules! deeds {
    ($($deed:ident),* $(,)?) => {
        #[derive(Clone, Copy, Debug)]
        enum Deed { $($deed),* }

        const DEEDS: &[Deed] = &[$(Deed::$deed),*];
    };
}

deeds! {
    Create, CopySnapshot, CopyVolume, Delete, DeleteWithSnapshots, Extend, Revert, Retype, Freeze, DeleteSnapshot, Attach, Detach, BackUp,
    BackUpSnapshot, DeleteBackup, RestoreOver, RestoreNew, FromBackup, MakeGroup, AddToGroup, RemoveFromGroup, FreezeGroup, CopyGroup,
    DeleteGroup, DeleteGroupSnapshot, FreezeSeveral,
}

struct Client {
    block: Block,
    me: Caller,
    random: u64,
}

impl Client {
    /// xorshift: the same choices on each run, as far as others leave the same to choose from.
    fn next(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % below as u64) as usize
    }

    /// One of all that there are now; a name of nothing when there are none.
    fn any<R: Record>(&mut self) -> String {
        let all = self.block.catalog().read().all::<R>().unwrap();
        match all.len() {
            0 => new_id(),
            n => all[self.next(n)].id().to_owned(),
        }
    }

    fn size(&mut self) -> u64 {
        1 + self.next(3) as u64
    }

    async fn create(&mut self, new: NewVolume) -> Answer<()> {
        self.block.create_volume(&self.me, new).await.map(drop)
    }

    /// Reserves, is told how to connect, and completes. Others may take it away in between.
    async fn attach(&mut self) -> Answer<()> {
        let (volume, instance) = (self.any::<Volume>(), Some(new_id()));
        let new = NewAttachment { volume, instance, connector: None, mode: "rw".to_owned(), completes: true };
        let attachment = self.block.create_attachment(&self.me, new).await?;
        tokio::task::yield_now().await;
        self.block.catalog().write(|tx| {
            let mut attachment: Attachment = tx.require(&attachment.id)?;
            attachment.status = AttachmentStatus::Attaching;
            tx.put(&attachment)
        })?;
        self.block.complete_attachment(&self.me, &attachment.id)
    }

    async fn turn(&mut self, deed: Deed) -> Answer<()> {
        let (block, me) = (self.block.clone(), self.me.clone());
        match deed {
            Deed::Create => {
                let size = self.size();
                self.create(NewVolume { size: Some(size), ..NewVolume::default() }).await
            }
            Deed::CopySnapshot => {
                let snapshot = self.any::<Snapshot>();
                self.create(NewVolume { snapshot: Some(snapshot), ..NewVolume::default() }).await
            }
            Deed::CopyVolume => {
                let source = self.any::<Volume>();
                self.create(NewVolume { source: Some(source), ..NewVolume::default() }).await
            }
            Deed::FromBackup => {
                let backup = self.any::<Backup>();
                self.create(NewVolume { backup: Some(backup), ..NewVolume::default() }).await
            }
            Deed::Delete => block.delete_volume(&me, &self.any::<Volume>(), false, false),
            Deed::DeleteWithSnapshots => block.delete_volume(&me, &self.any::<Volume>(), true, false),
            Deed::Extend => {
                let (volume, size) = (self.any::<Volume>(), 1 + self.size());
                block.extend_volume(&me, &volume, size, true).await
            }
            Deed::Revert => {
                let snapshot: Snapshot = block.find(&me, &self.any::<Snapshot>())?;
                block.revert_volume(&me, &snapshot.volume_id, &snapshot.id, true)
            }
            Deed::Retype => {
                let (volume, kind) = (self.any::<Volume>(), self.any::<VolumeType>());
                block.retype_volume(&me, &volume, &kind)
            }
            Deed::Freeze => {
                let new = NewSnapshot { volume: self.any::<Volume>(), force: true, ..NewSnapshot::default() };
                block.create_snapshot(&me, new).map(drop)
            }
            Deed::FreezeSeveral => {
                block.freeze_volumes(&me, &[self.any::<Volume>(), self.any::<Volume>()], None).map(drop)
            }
            Deed::DeleteSnapshot => block.delete_snapshot(&me, &self.any::<Snapshot>(), false),
            Deed::Attach => self.attach().await,
            Deed::Detach => block.delete_attachment(&me, &self.any::<Attachment>()).await.map(drop),
            _ => self.turn_of_others(deed).await,
        }
    }

    /// Backups and groups.
    async fn turn_of_others(&mut self, deed: Deed) -> Answer<()> {
        let (block, me) = (self.block.clone(), self.me.clone());
        match deed {
            Deed::BackUp => {
                let (volume, incremental) = (self.any::<Volume>(), self.next(2) == 0);
                let new = NewBackup { volume, incremental, force: true, ..NewBackup::default() };
                block.create_backup(&me, new).map(drop)
            }
            Deed::BackUpSnapshot => {
                let snapshot: Snapshot = block.find(&me, &self.any::<Snapshot>())?;
                let (volume, snapshot) = (snapshot.volume_id, Some(snapshot.id));
                block.create_backup(&me, NewBackup { volume, snapshot, ..NewBackup::default() }).map(drop)
            }
            Deed::DeleteBackup => block.delete_backup(&me, &self.any::<Backup>(), false),
            Deed::RestoreOver => {
                let (backup, volume) = (self.any::<Backup>(), self.any::<Volume>());
                block.restore(&me, &backup, Some(&volume), None).await.map(drop)
            }
            Deed::RestoreNew => block.restore(&me, &self.any::<Backup>(), None, None).await.map(drop),
            Deed::MakeGroup => {
                let new = NewGroup {
                    group_type: "default_group_type".to_owned(),
                    volume_types: vec!["__DEFAULT__".to_owned()],
                    ..NewGroup::default()
                };
                block.create_group(&me, new).map(drop)
            }
            Deed::AddToGroup => {
                let (group, volume) = (self.any::<Group>(), self.any::<Volume>());
                block.edit_group(&me, &group, GroupEdit { add: vec![volume], ..GroupEdit::default() })
            }
            Deed::RemoveFromGroup => {
                let volume: Volume = block.find(&me, &self.any::<Volume>())?;
                let group = volume.group_id.unwrap_or_else(new_id);
                block.edit_group(&me, &group, GroupEdit { remove: vec![volume.id], ..GroupEdit::default() })
            }
            Deed::FreezeGroup => {
                let new = NewGroupSnapshot { group: self.any::<Group>(), ..NewGroupSnapshot::default() };
                block.create_group_snapshot(&me, new).map(drop)
            }
            Deed::CopyGroup => {
                let source = match self.next(2) {
                    0 => GroupSource::Group(self.any::<Group>()),
                    _ => GroupSource::Snapshot(self.any::<GroupSnapshot>()),
                };
                block.create_group_from(&me, None, None, &source).await.map(drop)
            }
            Deed::DeleteGroup => block.delete_group(&me, &self.any::<Group>(), true),
            Deed::DeleteGroupSnapshot => block.delete_group_snapshot(&me, &self.any::<GroupSnapshot>()),
            other => unreachable!("{other:?}"),
        }
    }
}

/// What a volume's attachments say, and that nothing was left in a state of error: each of these requests was lawful or refused.
fn all_is_well(world: &World) {
    let tx = world.block.catalog().read();
    for volume in tx.all::<Volume>().unwrap() {
        let attachments = tx.found::<Attachment>(&Attachment::of_volume(&volume.id)).unwrap();
        assert!(attachments.len() <= 1, "{}: one consumer at a time", volume.id);
        let is = attachments.first().map_or(VolumeStatus::Available, |attachment| match attachment.status {
            AttachmentStatus::Attached => VolumeStatus::InUse,
            AttachmentStatus::Attaching => VolumeStatus::Attaching,
            _ => VolumeStatus::Reserved,
        });
        assert_eq!(volume.status, is, "{volume:?} {attachments:?}");
        if let Some(group) = &volume.group_id {
            let group: Group = tx.require(group).unwrap();
            assert!(group.volume_types.contains(&volume.type_id), "{volume:?} {group:?}");
        }
    }
    for snapshot in tx.all::<Snapshot>().unwrap() {
        assert_eq!(snapshot.status, SnapshotStatus::Available, "{snapshot:?}");
        assert!(tx.get::<Volume>(&snapshot.volume_id).unwrap().is_some(), "{snapshot:?} has no volume");
    }
    for backup in tx.all::<Backup>().unwrap() {
        assert_eq!(backup.status, BackupStatus::Available, "{backup:?}");
        assert!(backup.parent_id.is_none_or(|parent| tx.get::<Backup>(&parent).unwrap().is_some()));
    }
    for group in tx.all::<Group>().unwrap() {
        assert_eq!(group.status, GroupStatus::Available, "{group:?}");
    }
    for taken in tx.all::<GroupSnapshot>().unwrap() {
        assert_eq!(taken.status, GroupSnapshotStatus::Available, "{taken:?}");
    }
}

/// No quota is exceeded at any moment.
fn within_limits(block: &Block) {
    for (resource, limit) in LIMITS {
        let count = block.catalog().read().count("p", &QuotaKey::of(resource)).unwrap();
        assert!(count.in_use >= 0 && count.reserved >= 0, "{resource:?}: {count:?}");
        assert!(count.in_use + count.reserved <= limit, "{resource:?}: {count:?}, and {limit} are allowed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_that_race_for_everything_leave_a_whole() {
    let world = World::new().await;
    let kind = NewType { name: "other".to_owned(), description: None, public: true, extra_specs: BTreeMap::new() };
    drop(world.block.create_type(&admin(), kind).unwrap());
    let limits = LIMITS.map(|(resource, limit)| (QuotaKey::of(resource), limit));
    world.block.catalog().write(|tx| tx.set_limits(Some("p"), &limits)).unwrap();
    let (done, ended) = (std::sync::Arc::new(AtomicUsize::new(0)), std::sync::Arc::new(AtomicBool::new(false)));
    let watch = {
        let (block, ended) = (world.block.clone(), ended.clone());
        tokio::spawn(async move {
            while !ended.load(Ordering::SeqCst) {
                within_limits(&block);
                tokio::task::yield_now().await;
            }
        })
    };
    let clients: Vec<_> = (1..=CLIENTS)
        .map(|n| {
            let mut client =
                Client { block: world.block.clone(), me: admin(), random: n.wrapping_mul(0x9e37_79b9_7f4a_7c15) };
            let done = done.clone();
            tokio::spawn(async move {
                for _ in 0..TURNS {
                    let deed = DEEDS[client.next(DEEDS.len())];
                    match client.turn(deed).await {
                        Ok(()) => drop(done.fetch_add(1, Ordering::SeqCst)),
                        Err(fault) => {
                            use FaultKind::{BadRequest, Conflict, NotFound, OverLimit};
                            let lawful = matches!(fault.kind, BadRequest | Conflict | NotFound | OverLimit);
                            assert!(lawful, "{deed:?}: {fault:?}");
                        }
                    }
                    // What was begun goes on meanwhile, or much would be refused for being busy.
                    tokio::time::sleep(std::time::Duration::from_millis(client.next(4) as u64)).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    world.block.settled().await;
    ended.store(true, Ordering::SeqCst);
    watch.await.unwrap();
    within_limits(&world.block);
    world.sound().await;
    all_is_well(&world);
    let done = done.load(Ordering::SeqCst);
    assert!(done * 8 >= TURNS * CLIENTS as usize, "only {done} requests were carried out: nothing raced");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_name_of_a_type_is_given_once() {
    let world = World::new().await;
    for name in ["a", "b", "c", "d"] {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let block = world.block.clone();
                let kind =
                    NewType { name: name.to_owned(), description: None, public: true, extra_specs: BTreeMap::new() };
                tokio::spawn(async move { block.create_type(&admin(), kind).map(drop).map_err(|fault| fault.kind) })
            })
            .collect();
        let mut outcomes = Vec::new();
        for client in clients {
            outcomes.push(client.await.unwrap());
        }
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(()) | Err(FaultKind::Conflict))), "{outcomes:?}");
    }
    world.sound().await;
}
