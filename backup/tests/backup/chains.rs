//! Long random histories of volumes and their backups, beside a model of what there has to be.

use std::{collections::BTreeMap, sync::Arc};

use cairn_backup::{
    CollectOptions, CreateOptions, ErrorKind, Job, Mode, Policy, Repository, RestoreOptions, VerifyOptions,
};
use cairn_engine::{GIB, MIB, Target, VolumeOptions};
use object_store::memory::InMemory;

use crate::{
    reference::holds_exactly,
    world::{Random, World, content, content_up_to, in_memory, noise, open, restored, write},
};

/// A backup as it has to be.
#[derive(Clone, Debug)]
struct Expected {
    volume: usize,
    parent: Option<String>,
    size: u64,
    hash: blake3::Hash,
    number: u64,
}

struct Volume {
    name: String,
    size: u64,
    /// The backup whose snapshot was kept.
    last: Option<String>,
}

struct History {
    world: World,
    store: Arc<InMemory>,
    repository: Repository,
    random: Random,
    volumes: Vec<Volume>,
    backups: BTreeMap<String, Expected>,
    caches: u32,
    restores: u32,
}

const WHOLE: CollectOptions = CollectOptions { max_unused_percent: 0, dry_run: false };

impl History {
    async fn begin(seed: u64) -> Self {
        let (world, store, repository) = in_memory(None).await;
        let mut history = Self {
            world,
            store,
            repository,
            random: Random::new(seed),
            volumes: Vec::new(),
            backups: BTreeMap::new(),
            caches: 0,
            restores: 0,
        };
        for (i, most) in [4 * MIB, 130 * MIB, 17 * GIB].into_iter().enumerate() {
            let (name, size) = (format!("v{i}"), MIB + history.random.below(most / 512) * 512);
            drop(history.world.pool.create_volume(&name, size, VolumeOptions::default()).await.unwrap());
            history.volumes.push(Volume { name, size, last: None });
        }
        history
    }

    fn volume(&mut self) -> usize {
        self.random.below(self.volumes.len() as u64) as usize
    }

    fn some_backup(&mut self) -> Option<String> {
        let ids: Vec<String> = self.backups.keys().cloned().collect();
        self.random.pick(&ids).cloned()
    }

    fn children(&self, id: &str) -> Vec<String> {
        let of = |b: &&String| self.backups[*b].parent.as_deref() == Some(id);
        self.backups.keys().filter(of).cloned().collect()
    }

    /// Where something is to happen: near the start, at the end, or anywhere.
    fn range(&mut self, volume: usize, most: u64) -> (u64, u64) {
        let size = self.volumes[volume].size;
        let length = (1 + self.random.below(most / 512)) * 512;
        let offset = match self.random.below(4) {
            0 | 1 => self.random.below(2 * MIB / 512) * 512,
            2 => size.saturating_sub(length),
            _ => self.random.below(size / 512) * 512,
        };
        let offset = offset.min(size - 512);
        (offset, length.min(size - offset))
    }

    async fn write(&mut self) {
        let volume = self.volume();
        let (mut offset, mut length) = self.range(volume, 300 << 10);
        if self.random.one_in(2) {
            // Whole windows, of which some have the same content.
            offset = offset / 262_144 * 262_144;
            length = (self.volumes[volume].size - offset).min(262_144);
        }
        let seed = self.random.below(12);
        let content = match seed {
            0 | 1 => vec![0; length as usize],
            2 | 3 => format!("{seed} again and ").repeat(length as usize / 8).into_bytes()[..length as usize].to_vec(),
            _ => noise(length as usize, seed),
        };
        write(&self.world.pool, &self.volumes[volume].name, offset, &content).await;
    }

    async fn discard(&mut self) {
        let volume = self.volume();
        let most = if self.random.one_in(3) { GIB } else { MIB };
        let (offset, length) = self.range(volume, most);
        let open = self.world.pool.volume(&self.volumes[volume].name).await.unwrap();
        match self.random.one_in(2) {
            true => open.discard(offset, length).await.unwrap(),
            false => open.write_zeroes(offset, length.min(2 * MIB)).await.unwrap(),
        }
    }

    async fn grow(&mut self) {
        let volume = self.volume();
        let by = match self.random.below(3) {
            0 => 512 * (1 + self.random.below(9)),
            1 => self.random.below(100 * MIB / 512) * 512,
            _ => 66 * MIB,
        };
        let volume = &mut self.volumes[volume];
        volume.size += by;
        let _info = self.world.pool.resize(&volume.name, volume.size).await.unwrap();
    }

    async fn back_up(&mut self) {
        let i = self.volume();
        let of_it = |b: &Expected| b.volume == i;
        let named = match self.random.one_in(5) {
            true => self.some_backup().filter(|id| of_it(&self.backups[id])),
            false => None,
        };
        let mode = if self.random.one_in(5) { Mode::Full } else { Mode::Incremental };
        let newest = self.backups.iter().filter(|(_, b)| of_it(b)).max_by_key(|(_, b)| b.number).map(|(id, _)| id);
        let volume = &self.volumes[i];
        let parent = named.as_ref().or(newest).filter(|id| {
            mode == Mode::Incremental && volume.last.as_ref() == Some(id) && self.backups[*id].size <= volume.size
        });
        let options = CreateOptions { mode, parent: named.clone(), ..CreateOptions::default() };
        let made = self.repository.create(&self.world.pool, &volume.name, &options, &Job::new()).await.unwrap();
        assert_eq!(made.parent.as_ref(), parent, "{}", made.reason);
        let hash = content(&self.world.pool, &volume.name).await;
        let expected = Expected { volume: i, parent: parent.cloned(), size: volume.size, hash, number: made.number };
        self.volumes[i].last = Some(made.id.clone());
        let _none = self.backups.insert(made.id, expected);
    }

    async fn delete(&mut self) {
        let Some(id) = self.some_backup() else { return };
        let children = self.children(&id);
        let cascade = self.random.one_in(3);
        let job = Job::new();
        let dry = self.repository.delete(std::slice::from_ref(&id), cascade, true, &job).await;
        let deleted = self.repository.delete(std::slice::from_ref(&id), cascade, false, &job).await;
        if !children.is_empty() && !cascade {
            let error = deleted.unwrap_err();
            assert_eq!((error.kind(), dry.unwrap_err().kind()), (ErrorKind::InUse, ErrorKind::InUse));
            assert!(children.iter().all(|child| error.to_string().contains(child)), "{error}");
            return;
        }
        let deleted = deleted.unwrap().backups;
        assert_eq!(dry.unwrap().backups, deleted);
        for gone in &deleted {
            assert_eq!(self.children(gone), Vec::<String>::new(), "tips go first");
            let _was = self.backups.remove(gone).unwrap();
        }
        assert!(deleted.last() == Some(&id));
    }

    fn take_out(&mut self, id: &str) {
        let gone = self.backups.remove(id).unwrap();
        let children = self.backups.values_mut().filter(|b| b.parent.as_deref() == Some(id));
        children.for_each(|child| child.parent.clone_from(&gone.parent));
    }

    async fn merge(&mut self) {
        let Some(id) = self.some_backup() else { return };
        let _merged = self.repository.merge(&id).await.unwrap();
        self.take_out(&id);
    }

    async fn promote(&mut self) {
        let Some(id) = self.some_backup() else { return };
        let promoted = self.repository.promote(&id).await;
        let backup = self.backups.get_mut(&id).unwrap();
        match backup.parent.take() {
            Some(_) => assert!(promoted.unwrap().is_full()),
            None => assert_eq!(promoted.unwrap_err().kind(), ErrorKind::Invalid),
        }
    }

    async fn prune(&mut self) {
        let last = 1 + self.random.below(4) as u32;
        let volume = self.volume();
        let name = self.volumes[volume].name.clone();
        let policy = Policy { last, ..Policy::default() };
        let verdicts = self.repository.prune(&policy, Some(&name), false).await.unwrap();
        let mut of_it: Vec<(u64, String)> =
            self.backups.iter().filter(|(_, b)| b.volume == volume).map(|(id, b)| (b.number, id.clone())).collect();
        of_it.sort_unstable();
        assert_eq!(verdicts.len(), of_it.len());
        of_it.truncate(of_it.len().saturating_sub(last as usize));
        of_it.iter().for_each(|(_, id)| self.take_out(id));
    }

    async fn collect(&mut self) {
        let job = Job::new();
        if self.random.one_in(3) {
            let _some = self.repository.collect(&CollectOptions::default(), &job).await.unwrap();
            return;
        }
        let dry = self.repository.collect(&CollectOptions { dry_run: true, ..WHOLE }, &job).await.unwrap();
        let done = self.repository.collect(&WHOLE, &job).await.unwrap();
        assert_eq!((done.freed, done.unused), (dry.freed, 0));
        assert_eq!((&done.rewriting_failed, done.unreadable.len(), done.open_sessions.len()), (&None, 0, 0));
        let again = self.repository.collect(&CollectOptions { dry_run: true, ..WHOLE }, &job).await.unwrap();
        assert_eq!((again.freed, again.unused, again.unneeded_packs, again.needed), (0, 0, 0, done.needed));
        holds_exactly(&*self.store, &self.repository.backups().await.unwrap()).await;
    }

    async fn verify(&mut self) {
        let percent = 1 + self.random.below(100) as u32;
        let options = VerifyOptions { percent, ..VerifyOptions::default() };
        let verified = self.repository.verify(&options, &Job::new()).await.unwrap();
        assert!(verified.is_whole() && verified.damaged.is_empty(), "{verified:?}");
    }

    async fn restore_new(&mut self) {
        let Some(id) = self.some_backup() else { return };
        assert_eq!(restored(&self.repository, &self.world.pool, &id).await.unwrap(), self.backups[&id].hash);
    }

    async fn restore_in_place(&mut self) {
        let (Some(id), i) = (self.some_backup(), self.volume()) else { return };
        let Expected { size, hash, .. } = self.backups[&id];
        let pool = self.world.pool.clone();
        let name = self.volumes[i].name.clone();
        if size > 16 * GIB && self.volumes[i].size < GIB {
            return;
        }
        let before = (self.volumes[i].size, content(&pool, &name).await);
        let options = RestoreOptions { in_place: true, ..RestoreOptions::default() };
        let restored = self.repository.restore(&id, &pool, &name, &options, &Job::new()).await.unwrap();
        self.restores += 1;
        assert_eq!(content_up_to(&pool, &name, size).await, hash);
        assert_eq!(content(&pool, &name).await, hash, "what is beyond is zeros");
        self.volumes[i].size = before.0.max(size);
        let undo = restored.undo_snapshot.unwrap();
        if self.random.one_in(2) {
            let _info = pool.revert(&name, &undo, false).await.unwrap();
            self.volumes[i].size = before.0;
            assert_eq!(content(&pool, &name).await, before.1);
        }
        pool.delete_snapshot(&Target { volume: name, snapshot: Some(undo) }).await.unwrap();
    }

    async fn reopen(&mut self) {
        self.caches += 1;
        let location = self.world.cache(&format!("cache-{}", self.caches));
        self.repository = open(&self.store, &location).await.unwrap();
    }

    async fn step(&mut self) {
        match self.random.below(24) {
            0..=5 => self.write().await,
            6 => self.discard().await,
            7 => self.grow().await,
            8..=12 => self.back_up().await,
            13 => self.delete().await,
            14 => self.merge().await,
            15 => self.promote().await,
            16 => self.prune().await,
            17 | 18 => self.collect().await,
            19 => self.verify().await,
            20 => self.restore_new().await,
            21 | 22 => self.restore_in_place().await,
            _ => self.reopen().await,
        }
    }

    /// Every backup is there, hangs where it should, and comes back as it was.
    async fn check(&self) {
        let there = self.repository.backups().await.unwrap();
        let relations: BTreeMap<_, _> = there.iter().map(|b| (b.id.clone(), (b.parent.clone(), b.size))).collect();
        let expected = self.backups.iter().map(|(id, b)| (id.clone(), (b.parent.clone(), b.size))).collect();
        assert_eq!(relations, expected);
        for (id, backup) in &self.backups {
            assert_eq!(restored(&self.repository, &self.world.pool, id).await.unwrap(), backup.hash, "{id}");
        }
    }
}

async fn histories(seeds: std::ops::Range<u64>) {
    let mut restores = 0;
    for seed in seeds {
        let mut history = History::begin(seed).await;
        for step in 0..60 {
            // The seed and the step are what a failure is repeated by.
            let at = format!("seed {seed} step {step}");
            let _shown = Shown(&at);
            history.step().await;
        }
        let _shown = Shown(&format!("seed {seed} at the end"));
        history.check().await;
        history.reopen().await;
        history.collect().await;
        history.check().await;
        restores += history.restores;
        history.world.pool.close().await.unwrap();
    }
    assert!(restores > 0);
}

/// Says where a panic was.
struct Shown<'a>(&'a str);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in {}", self.0);
        }
    }
}

#[tokio::test]
async fn random_histories_come_to_what_the_model_says_a() {
    histories(0..20).await;
}

#[tokio::test]
async fn random_histories_come_to_what_the_model_says_b() {
    histories(20..40).await;
}
