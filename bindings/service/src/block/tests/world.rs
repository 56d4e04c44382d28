//! A pool, a catalog and a repository in a directory of their own, and what must hold of them.

use cairn_backup::{InitOptions, Location, Repository};
use cairn_engine::{Pool, PoolOptions};
use std::{collections::BTreeSet, path::PathBuf, sync::Arc};
use tokio::sync::Notify;

use crate::{
    backup::RepositoryRef,
    block::{Block, Caller, Hook, NewSnapshot, NewVolume, Parts, Role, Settings},
    catalog::{Backup, Catalog, Intent, Snapshot, Volume, audit, engine_snapshot},
    domain::VolumeStatus,
};

pub(super) struct World {
    directory: tempfile::TempDir,
    pub(super) pool: Pool,
    pub(super) block: Block,
}

/// Lets everything go on.
pub(super) fn free() -> Hook {
    Arc::new(|_| Box::pin(std::future::ready(())))
}

/// Stops whatever comes to the boundary of this number, for ever, and says so.
pub(super) fn freeze_at(number: usize) -> (Hook, Arc<Notify>) {
    let frozen = Arc::new(Notify::new());
    let (tell, seen) = (frozen.clone(), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
    let hook: Hook = Arc::new(move |_| {
        let at = seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let tell = tell.clone();
        Box::pin(async move {
            if at == number {
                tell.notify_one();
                std::future::pending::<()>().await;
            }
        })
    });
    (hook, frozen)
}

pub(super) fn admin() -> Caller {
    caller("p", Role::Admin)
}

pub(super) fn caller(project: &str, role: Role) -> Caller {
    Caller { user: "u".to_owned(), project: project.to_owned(), role, request: "req-test".to_owned() }
}

impl World {
    pub(super) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pool = Pool::create(directory.path().join("pool"), PoolOptions::new().size(128 << 20)).await.unwrap();
        let place = Self::place(directory.path().join("repository"), directory.path().join("cache"));
        drop(Repository::init(&place.location().unwrap(), &InitOptions::default()).await.unwrap());
        let block = Self::start(directory.path().into(), &pool, free());
        Self { directory, pool, block }
    }

    fn place(repository: PathBuf, cache: PathBuf) -> RepositoryRef {
        let location = Location::new(format!("file://{}", repository.display()));
        RepositoryRef { url: location.url, cache: Some(cache), ..RepositoryRef::default() }
    }

    fn start(directory: PathBuf, pool: &Pool, hook: Hook) -> Block {
        let settings = Settings {
            over_subscription: 1e6,
            repository: Some(Self::place(directory.join("repository"), directory.join("cache"))),
            ..Settings::default()
        };
        Block::new(Parts {
            catalog: Catalog::open(&directory.join("catalog")).unwrap(),
            pool: pool.clone(),
            listeners: Vec::new(),
            disks: None,
            settings,
            hook,
        })
        .unwrap()
    }

    /// The service ends where it is, and another one begins.
    pub(super) async fn restart(self, hook: Hook) -> Self {
        let Self { directory, pool, block } = self;
        block.abort().await;
        drop(block);
        let block = Self::start(directory.path().into(), &pool, hook);
        Self { directory, pool, block }
    }

    /// A volume that is there.
    pub(super) async fn volume(&self, name: &str) -> Volume {
        let new = NewVolume { name: Some(name.to_owned()), size: Some(1), ..NewVolume::default() };
        self.made(new).await
    }

    pub(super) async fn made(&self, new: NewVolume) -> Volume {
        let volume = self.block.create_volume(&admin(), new).await.unwrap();
        assert_eq!(volume.status, VolumeStatus::Creating);
        self.block.settled().await;
        let volume = self.show(&volume.id);
        assert_eq!(volume.status, VolumeStatus::Available);
        volume
    }

    pub(super) async fn snapshot(&self, volume: &str) -> Snapshot {
        let new = NewSnapshot { volume: volume.to_owned(), ..NewSnapshot::default() };
        let snapshot = self.block.create_snapshot(&admin(), new).unwrap();
        self.block.settled().await;
        self.block.find(&admin(), &snapshot.id).unwrap()
    }

    pub(super) fn show(&self, id: &str) -> Volume {
        self.block.find(&admin(), id).unwrap()
    }

    /// Writes one byte all over the first block.
    pub(super) async fn write(&self, volume: &Volume, byte: u8) {
        let open = self.pool.volume(&volume.engine_name()).await.unwrap();
        open.write(0, cairn_engine::IoBuf::from(&[byte; 4096][..])).await.unwrap();
        open.flush().await.unwrap();
    }

    pub(super) async fn first_byte(&self, volume: &str) -> u8 {
        let open = self.pool.volume(&crate::catalog::engine_volume(volume)).await.unwrap();
        open.read(0, 512).await.unwrap()[0]
    }

    /// Counts are exact, entries lead where they should, nothing is under way, and catalog and pool have the same objects.
    pub(super) async fn sound(&self) {
        let tx = self.block.catalog().read();
        assert_eq!(audit(&tx).unwrap(), Vec::<String>::new());
        assert_eq!(tx.all::<Intent>().unwrap(), Vec::new(), "nothing is left under way");
        let volumes = tx.all::<Volume>().unwrap();
        let known: BTreeSet<String> = volumes.iter().map(Volume::engine_name).collect();
        let stored: BTreeSet<String> = self.pool.volumes(false).await.unwrap().into_iter().map(|v| v.name).collect();
        for name in &stored {
            assert!(known.contains(name), "{name} is an orphan in the pool");
        }
        for volume in volumes.iter().filter(|volume| volume.status == VolumeStatus::Available) {
            assert!(stored.contains(&volume.engine_name()), "{} is available, and not in the pool", volume.id);
            let info = self.pool.volume_info(&volume.engine_name()).await.unwrap();
            assert_eq!(info.size, volume.size << 30);
        }
        let known: BTreeSet<String> =
            tx.all::<Snapshot>().unwrap().iter().map(|snapshot| engine_snapshot(&snapshot.id)).collect();
        let stored: BTreeSet<String> =
            self.pool.snapshots(None, false).await.unwrap().into_iter().map(|snapshot| snapshot.name).collect();
        let orphans: Vec<_> = stored.difference(&known).filter(|n| !n.starts_with("cairn-backup-")).collect();
        assert!(orphans.is_empty(), "{orphans:?} are orphans in the pool");
        assert!(known.is_subset(&stored), "{known:?} {stored:?}");
        let repository = self.block.repository().await.unwrap();
        let stored: BTreeSet<String> = repository.backups().await.unwrap().into_iter().map(|b| b.id).collect();
        let known: BTreeSet<String> =
            tx.all::<Backup>().unwrap().into_iter().filter_map(|backup| backup.stored_id).collect();
        assert_eq!(known, stored, "catalog and repository have the same backups");
    }
}
