//! A pool, a catalog and a repository in a directory of their own, and what must hold of them.

use cairn_backup::{InitOptions, Location, Repository};
use cairn_engine::{OpenOptions, Pool, PoolOptions};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::Notify;

use crate::{
    backup::{Fillings, RepositoryRef},
    block::{Block, Caller, Exports, Hook, NewSnapshot, NewVolume, Parts, Role, Settings},
    catalog::{Backup, Catalog, IMAGE_SNAPSHOT, Intent, Snapshot, Volume, audit, engine_snapshot},
    domain::VolumeStatus,
};

pub(super) struct World {
    directory: tempfile::TempDir,
    pub(super) pool: Pool,
    pub(super) block: Block,
    pub(super) disks: Option<cairn_vhost_user::Server>,
    /// They go on where the service does not: what fills volumes is the process's.
    fillings: Fillings,
}

/// Packs that are kept aside.
pub(super) struct HiddenPacks {
    aside: PathBuf,
    packs: Vec<PathBuf>,
}

impl HiddenPacks {
    /// They are back.
    pub(super) fn show(self) {
        for pack in &self.packs {
            fs::remove_file(pack).unwrap();
            fs::rename(kept_aside(&self.aside, pack), pack).unwrap();
        }
        fs::remove_dir(&self.aside).unwrap();
    }
}

/// Names of packs are of their session alone.
fn kept_aside(aside: &Path, pack: &Path) -> PathBuf {
    let name = |path: Option<&Path>| path.and_then(Path::file_name).unwrap().to_string_lossy().into_owned();
    aside.join(format!("{}-{}", name(pack.parent()), name(Some(pack))))
}

/// The service ends where it is.
async fn end(block: Block) {
    block.abort().await;
    // Whoever still has it, as those who wait for an answer, lets go of it.
    let alone = async {
        while Arc::strong_count(&block.inner) > 1 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(super::boundaries::PATIENCE, alone).await.expect("nobody else has it");
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

/// Somewhere on its way, until it is let go.
pub(super) struct Held {
    pub(super) came: Arc<Notify>,
    pub(super) go: Arc<Notify>,
}

/// Holds whatever comes to the boundary of this number until it is let go.
pub(super) fn hold_at(number: usize) -> (Hook, Held) {
    let held = Held { came: Arc::default(), go: Arc::default() };
    let (came, go, seen) = (held.came.clone(), held.go.clone(), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
    let hook: Hook = Arc::new(move |_| {
        let at = seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let (came, go) = (came.clone(), go.clone());
        Box::pin(async move {
            if at == number {
                came.notify_one();
                go.notified().await;
            }
        })
    });
    (hook, held)
}

/// Both of them.
pub(super) fn both(first: Hook, second: Hook) -> Hook {
    Arc::new(move |name| {
        let (first, second) = (first(name), second(name));
        Box::pin(async move {
            first.await;
            second.await;
        })
    })
}

pub(super) fn admin() -> Caller {
    caller("p", Role::Admin)
}

pub(super) fn caller(project: &str, role: Role) -> Caller {
    Caller {
        user: "u".to_owned(),
        project: project.to_owned(),
        role,
        request: "req-test".to_owned(),
        deed: "test.test".to_owned(),
        object: None,
        task: String::new(),
    }
}

impl World {
    pub(super) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pool = Pool::create(directory.path().join("pool"), PoolOptions::new().size(128 << 20)).await.unwrap();
        let place = Self::place(directory.path().join("repository"), directory.path().join("cache"));
        drop(Repository::init(&place.location().unwrap(), &InitOptions::default()).await.unwrap());
        let fillings = Fillings::default();
        let block = Self::start(directory.path().into(), &pool, None, free(), fillings.clone());
        Self { directory, pool, block, disks: None, fillings }
    }

    /// With sockets for virtual machines.
    pub(super) async fn with_disks() -> Self {
        let mut world = Self::new().await;
        let sockets = world.directory.path().join("sockets");
        let options = cairn_vhost_user::Options::default();
        world.disks = Some(cairn_vhost_user::Server::start(&world.pool, sockets, options).await.unwrap());
        world.restart(free()).await
    }

    fn place(repository: PathBuf, cache: PathBuf) -> RepositoryRef {
        let location = Location::new(format!("file://{}", repository.display()));
        RepositoryRef { url: location.url, cache: Some(cache), ..RepositoryRef::default() }
    }

    fn start(
        directory: PathBuf,
        pool: &Pool,
        disks: Option<cairn_vhost_user::Server>,
        hook: Hook,
        fillings: Fillings,
    ) -> Block {
        let settings = Settings {
            over_subscription: 1e6,
            repository: Some(Self::place(directory.join("repository"), directory.join("cache"))),
            ..Settings::default()
        };
        let catalog = Catalog::open(&directory.join("catalog"), settings.kept()).unwrap();
        Block::new(Parts {
            exports: Exports::of(&catalog).unwrap(),
            catalog,
            pool: pool.clone(),
            listeners: Vec::new(),
            disks,
            settings,
            hook,
            fillings,
            opening: "one".to_owned(),
        })
        .unwrap()
    }

    /// The service ends where it is, and another one begins.
    pub(super) async fn restart(self, hook: Hook) -> Self {
        let Self { directory, pool, block, disks, fillings } = self;
        end(block).await;
        let block = Self::start(directory.path().into(), &pool, disks.clone(), hook, fillings.clone());
        Self { directory, pool, block, disks, fillings }
    }

    /// The process ends, and another one begins: volumes are filled by their notes alone.
    pub(super) async fn another_process(self) -> Self {
        let Self { directory, pool, block, .. } = self;
        end(block).await;
        pool.close().await.unwrap();
        drop(pool);
        let pool = Pool::open(directory.path().join("pool"), OpenOptions::default()).await.unwrap();
        let fillings = Fillings::default();
        let _told = fillings.resume(&pool).await.unwrap();
        let block = Self::start(directory.path().into(), &pool, None, free(), fillings.clone());
        Self { directory, pool, block, disks: None, fillings }
    }

    /// Where the backups are.
    pub(super) fn repository(&self) -> PathBuf {
        self.directory.path().join("repository")
    }

    /// Takes the content of all backups away. What is filled from them waits.
    pub(super) fn hide_packs(&self) -> HiddenPacks {
        let aside = self.directory.path().join("aside");
        fs::create_dir(&aside).unwrap();
        let sessions = fs::read_dir(self.repository().join("packs")).unwrap();
        let packs = sessions.flat_map(|session| fs::read_dir(session.unwrap().path()).unwrap());
        let packs: Vec<PathBuf> = packs.map(|pack| pack.unwrap().path()).collect();
        assert!(!packs.is_empty());
        for pack in &packs {
            fs::rename(pack, kept_aside(&aside, pack)).unwrap();
            // Can be found and not be read.
            std::os::unix::fs::symlink(pack, pack).unwrap();
        }
        HiddenPacks { aside, packs }
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

    /// Waits until a volume holds all of what it is filled with, and nothing goes on filling it: as its user sees it, in the list of tasks.
    pub(super) async fn filled(&self, volume: &str) {
        let name = crate::catalog::engine_volume(volume);
        let full = async {
            while self.fillings.list(&self.pool).await.unwrap().filling.iter().any(|one| one.volume == name) {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(super::boundaries::PATIENCE, full).await.unwrap();
        assert!(!self.pool.volume_info(&name).await.unwrap().options.filling);
    }

    /// Waits until what fills a volume was stopped, and waits itself: nobody has the volume open then.
    pub(super) async fn filling_waits(&self) {
        let waits = async {
            while self.fillings.list(&self.pool).await.unwrap().filling.iter().all(|one| one.error.is_none()) {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(super::boundaries::PATIENCE, waits).await.unwrap();
    }

    pub(super) async fn first_byte(&self, volume: &str) -> u8 {
        let open = self.pool.volume(&crate::catalog::engine_volume(volume)).await.unwrap();
        open.read(0, 512).await.unwrap()[0]
    }

    /// Counts are exact, entries lead where they should, nothing is under way, and catalog and pool have the same objects.
    pub(super) async fn sound(&self) {
        let tx = self.block.catalog().read();
        assert_eq!(audit(&tx, true).unwrap(), Vec::<String>::new());
        assert_eq!(tx.all::<Intent>().unwrap(), Vec::new(), "nothing is left under way");
        let volumes = tx.all::<Volume>().unwrap();
        let mut known: BTreeSet<String> = volumes.iter().map(Volume::engine_name).collect();
        let stored: BTreeSet<String> = self.pool.volumes(false).await.unwrap().into_iter().map(|v| v.name).collect();
        let images = super::images::stored(&tx);
        assert!(images.is_subset(&stored), "{images:?} are not all in the pool: {stored:?}");
        known.extend(images);
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
        let orphans: Vec<_> = stored
            .difference(&known)
            .filter(|name| !name.starts_with("cairn-backup-") && *name != IMAGE_SNAPSHOT)
            .collect();
        assert!(orphans.is_empty(), "{orphans:?} are orphans in the pool");
        assert!(known.is_subset(&stored), "{known:?} {stored:?}");
        let repository = self.block.repository().await.unwrap();
        let stored: BTreeSet<String> = repository.backups().await.unwrap().into_iter().map(|b| b.id).collect();
        let known: BTreeSet<String> =
            tx.all::<Backup>().unwrap().into_iter().filter_map(|backup| backup.stored_id).collect();
        assert_eq!(known, stored, "catalog and repository have the same backups");
    }
}
