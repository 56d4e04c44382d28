//! Simulation: a pool lives through several machines, with many clients and every fault that the disk may have, and is checked after
//! each crash; at the end the disk is calm, and everything must come right.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use cairn_engine::{
    ErrorKind, LocalPool, MIB, OpenOptions, Pace, PoolOptions, RegroupEnd, RegroupOptions, RepairStep,
    sim::{self, Counters, Disk, Faults, Machine, Rng, Survivors},
};

use crate::{
    choices::Choices,
    client::{Client, Habits, Shared, calm},
    explore::caught,
    history::{History, check},
    model::Family,
    restore,
    verify::{check_clean, read_all},
};

/// How a run went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Hash over everything that happened: the same seed has the same.
    pub trace: u64,
    /// Operations of clients.
    pub operations: u64,
    /// Crashes that were survived.
    pub crashes: u64,
    /// What the disk did.
    pub disk: Counters,
}

/// What is the same for all of a seed's machines.
struct World {
    seed: u64,
    disk: Disk,
    habits: Habits,
    histories: Vec<Rc<RefCell<History>>>,
    tick: Rc<Cell<u64>>,
    operations: Rc<Cell<u64>>,
    /// What the disk had done when the present machine was started.
    began: Counters,
}

/// How one machine is used.
#[derive(Clone, Debug)]
struct Life {
    faults: Faults,
    /// Whether the disk is faulty already when the pool is opened.
    faulty_opening: bool,
    operations: u64,
    /// When the power goes, if it goes before everybody is done.
    cut: Option<Duration>,
    /// Whether what can be repaired is repaired at the end, with all the damage that was done.
    repair: bool,
    /// Whether deletion is waited for and everything checked before the end.
    settle: bool,
}

fn faults(rng: &mut Rng, bytes: u64) -> Faults {
    let mut faults = Faults { latency_us: 1..[20, 200, 2000][rng.below(3) as usize], ..calm() };
    let mut level = |often: u64, parts: u32| if rng.below(often) == 0 { parts } else { 0 };
    faults.stall = level(3, 3_000);
    faults.read_error = level(4, 4_000);
    faults.write_error = level(4, 2_000);
    faults.short_write = level(4, 10_000);
    faults.sync_error = level(8, 2_000);
    faults.bit_rot = level(4, 5_000);
    faults.lost_write = level(4, 3_000);
    faults.misdirected_write = level(4, 3_000);
    faults.damage_budget = 3;
    faults.room = (rng.below(4) == 0).then(|| bytes * (2 + rng.below(6)) / 8);
    faults
}

fn habits(rng: &mut Rng) -> Habits {
    let plain = Habits { volumes: 4, sizes: &[1, 2, 3], longest: 60, writes: 45, flush_series: 0, ..Habits::default() };
    match rng.below(6) {
        0 => Habits { sizes: &[1, 3, 300, 70_000], ..plain },
        1 => Habits { longest: 1500, writes: 75, sizes: &[8, 16, 24], ..plain },
        2 => Habits { flush_series: 25, ..plain },
        3 => Habits { sizes: &[300], volumes: 6, writes: 25, ..plain },
        4 => Habits { writes: 15, ..plain },
        _ => plain,
    }
}

/// Runs one seed.
///
/// # Errors
/// What went wrong, and the command that shows it again.
pub fn simulate(seed: u64) -> Result<Outcome, String> {
    caught(|| run(seed)).map_err(|e| format!("{e}\n  replay: cairn-sim seed {seed}"))
}

fn run(seed: u64) -> Result<Outcome, String> {
    let mut rng = Rng::new(seed);
    let bytes = [32, 32, 48, 64][rng.below(4) as usize] * MIB;
    let clients = 1 + rng.below(4);
    let mut world = World {
        seed,
        disk: match rng.below(5) {
            0 => Disk::with_all_room(bytes, rng.next_u64()),
            _ => Disk::new(bytes, rng.next_u64()),
        },
        habits: Habits { restores: seed % 3 == 2, ..habits(&mut rng) }.with_writeback(seed % 4 == 1),
        histories: (0..clients).map(|_| Rc::default()).collect(),
        tick: Rc::new(Cell::new(1)),
        operations: Rc::default(),
        began: Counters::default(),
    };
    sim::run(&world.disk, |machine| async move { machine.create_pool(PoolOptions::new()).await.map(drop) })
        .map_err(|_| "making the pool hangs".to_owned())?
        .map_err(|e| format!("making the pool: {e}"))?;
    world.disk = world.disk.crash(Survivors::None);
    let lives = 1 + rng.below(5);
    for _ in 0..lives {
        let life = Life {
            faults: faults(&mut rng, bytes),
            faulty_opening: rng.below(3) == 0,
            operations: 20 + rng.below(100),
            cut: (rng.below(3) > 0).then(|| Duration::from_micros(rng.below(30_000) * (1 + rng.below(20)))),
            repair: rng.below(3) == 0,
            settle: rng.below(3) == 0,
        };
        world.live(&life, &mut rng)?;
        if rng.below(4) == 0 {
            world.disk = world.disk.kill();
            continue;
        }
        let survivors = match rng.below(6) {
            0 => Survivors::All,
            1 => Survivors::None,
            2 => Survivors::Completed,
            3 => Survivors::Random(rng.next_u64()),
            _ => Survivors::Torn(rng.next_u64()),
        };
        world.disk = world.disk.crash(survivors);
    }
    world.quiet(&mut rng)?;
    let mut trace = world.disk.trace();
    for history in &world.histories {
        trace = trace.rotate_left(7) ^ history.borrow().now().digest();
    }
    Ok(Outcome { trace, operations: world.operations.get(), crashes: lives + 1, disk: world.disk.counters() })
}

fn excuses(disk: &Disk) -> u64 {
    let counters = disk.counters();
    counters.errors + counters.damage_read
}

/// Opens the pool; what the disk did wrong on the way is mended, and then it must succeed.
async fn open(machine: &Machine) -> Result<LocalPool, String> {
    for _ in 0..2 {
        let before = excuses(machine.disk());
        match machine.open_pool(OpenOptions::new()).await {
            Ok(pool) => return Ok(pool),
            Err(e) if excuses(machine.disk()) == before => return Err(format!("opening, without a cause: {e}")),
            Err(_) => {
                machine.disk().heal();
                machine.disk().set_faults(calm());
            }
        }
    }
    Err("opening failed twice".to_owned())
}

/// Reads everything; damage on the way is mended.
async fn read_surely(machine: &Machine, pool: &LocalPool, families: usize) -> Result<Vec<Family>, String> {
    for _ in 0..2 {
        let before = excuses(machine.disk());
        match read_all(pool, families).await {
            Ok(found) => return Ok(found),
            Err(e) if excuses(machine.disk()) == before => return Err(format!("reading, without a cause: {e}")),
            Err(_) => {
                machine.disk().heal();
                machine.disk().set_faults(calm());
            }
        }
    }
    Err("reading failed twice".to_owned())
}

impl World {
    /// What a machine needs of this world.
    fn shared(&self, pool: LocalPool) -> Rc<Shared> {
        Rc::new(Shared {
            pool,
            disk: self.disk.clone(),
            habits: self.habits.clone(),
            tick: self.tick.clone(),
            operations: self.operations.clone(),
            began: self.began,
        })
    }

    fn copy(&self) -> Self {
        Self {
            seed: self.seed,
            disk: self.disk.clone(),
            habits: self.habits.clone(),
            histories: self.histories.clone(),
            tick: self.tick.clone(),
            operations: self.operations.clone(),
            began: self.disk.counters(),
        }
    }

    /// Compares what is there after a crash with what may be there; from here on it is what must be there.
    async fn take_stock(&self, machine: &Machine, pool: &LocalPool) -> Result<(), String> {
        let found = read_surely(machine, pool, self.histories.len()).await?;
        {
            let histories: Vec<_> = self.histories.iter().map(|h| h.borrow()).collect();
            let histories: Vec<&History> = histories.iter().map(|h| &**h).collect();
            let _places = check(&histories, &found, usize::MAX)?;
        }
        for (history, family) in self.histories.iter().zip(found) {
            *history.borrow_mut() = History::from(family);
        }
        Ok(())
    }

    /// One machine: the pool is opened, checked and used until everybody is done, the pool stops, or the power goes.
    fn live(&self, life: &Life, rng: &mut Rng) -> Result<(), String> {
        let (world, life, mut rng) = (self.copy(), life.clone(), rng.fork());
        self.disk.set_faults(if life.faulty_opening { life.faults.clone() } else { calm() });
        let ended = sim::run(&self.disk, move |machine| async move {
            let pool = open(&machine).await?;
            world.take_stock(&machine, &pool).await?;
            machine.disk().set_faults(life.faults.clone());
            let everybody = world.everybody(&machine, &pool, life.operations, &mut rng);
            match life.cut {
                Some(after) => before(machine.reactor().sleep(after), everybody).await,
                None => everybody.await,
            }
            if life.cut.is_none() && life.repair {
                world.repair(&machine, &pool).await?;
            }
            if life.cut.is_none() && life.settle {
                world.settle(&machine, &pool).await?;
            }
            Ok::<_, String>(())
        });
        ended.map_err(|_| "the pool hangs".to_owned())??;
        match self.disk.counters().without_room {
            0 => Ok(()),
            n => Err(format!("{n} writes went to where no room had been set aside")),
        }
    }

    /// All clients, until each has done its operations or the pool has stopped.
    fn everybody(
        &self,
        machine: &Machine,
        pool: &LocalPool,
        operations: u64,
        rng: &mut Rng,
    ) -> impl Future<Output = ()> + 'static {
        let shared = self.shared(pool.clone());
        restore::start_all(pool, Duration::from_micros(700));
        let tasks: Vec<_> = self
            .histories
            .iter()
            .enumerate()
            .map(|(number, history)| {
                let client = Client::new(shared.clone(), history.clone(), number, Choices::Seeded(rng.fork()));
                machine.reactor().spawn(async move { client.live(operations).await })
            })
            .collect();
        async move {
            for task in tasks {
                let _go = task.await;
            }
        }
    }

    /// No more faults, but the damage stays: what follows from the rest is repaired, and then nothing of it is left to do.
    async fn repair(&self, machine: &Machine, pool: &LocalPool) -> Result<(), String> {
        machine.disk().set_faults(calm());
        if pool.stats().read_only.is_some() {
            return Ok(());
        }
        write_what_failed(machine, pool).await?;
        let plan = pool.plan_repair(true, |_, _| {}).await.map_err(|e| format!("planning a repair: {e}"))?;
        // What was found before the checkpoint may have been of the one before.
        let done = match pool.repair(&plan, |_, _| {}).await {
            Ok(report) => report.done.len(),
            Err(e) if e.kind() == ErrorKind::Busy => return Ok(()),
            Err(e) => return Err(format!("repairing: {e}")),
        };
        let again = pool.plan_repair(false, |_, _| {}).await.map_err(|e| format!("planning again: {e}"))?;
        if done > 0 && !again.actions.is_empty() {
            return Err(format!("after a repair there is more to repair: {:?}", again.actions));
        }
        Ok(())
    }

    /// The disk is mended while the pool is open: unless it has stopped for good, everything comes right without a restart.
    async fn settle(&self, machine: &Machine, pool: &LocalPool) -> Result<(), String> {
        machine.disk().heal();
        machine.disk().set_faults(calm());
        if pool.stats().read_only.is_some() {
            return Ok(());
        }
        restore::stop_all(pool).await?;
        let _outcome = pool.cancel_regroup().await;
        write_what_failed(machine, pool).await?;
        self.regroup(pool).await?;
        pool.wait_deleted().await.map_err(|e| format!("deletion on a mended disk: {e}"))?;
        give_back_what_counts_as_used(machine, pool).await?;
        check_clean(pool, true, "on a mended disk").await?;
        self.scrub(pool).await?;
        let found = read_surely(machine, pool, self.histories.len()).await?;
        for (i, (history, family)) in self.histories.iter().zip(&found).enumerate() {
            let expected = history.borrow().now();
            if expected.digest() != family.digest() {
                return Err(format!("family {i} on a mended disk: {}", family.explain(&expected)));
            }
        }
        Ok(())
    }

    /// All volumes are regrouped: what they hold is looked at afterwards.
    async fn regroup(&self, pool: &LocalPool) -> Result<(), String> {
        for volume in pool.list_volumes().iter().filter(|volume| !volume.options.filling) {
            let options = RegroupOptions { pace: Pace::unlimited(), dry_run: false };
            let outcome = pool.regroup(&volume.name, options, |_| {}).await.map_err(|e| format!("regrouping: {e}"))?;
            let sound = matches!(outcome.end, RegroupEnd::Finished | RegroupEnd::NoSpace);
            if !sound || outcome.report.damaged_blocks > 0 {
                return Err(format!("a regroup on a mended disk: {outcome:?}"));
            }
        }
        Ok(())
    }

    /// A scrub of a pool in order finds nothing.
    async fn scrub(&self, pool: &LocalPool) -> Result<(), String> {
        // One that began before the disk was mended may still be under way.
        let _outcome = pool.cancel_scrub().await;
        let outcome = pool.scrub(Pace::unlimited(), |_| {}).await.map_err(|e| format!("scrubbing: {e}"))?;
        if !outcome.report.is_clean() {
            return Err(format!("a scrub on a mended disk: {:?}", outcome.report.damaged));
        }
        Ok(())
    }

    /// The end: a calm disk, some more work, then everything is deleted and nothing may be left.
    fn quiet(&self, rng: &mut Rng) -> Result<(), String> {
        self.disk.heal();
        self.disk.set_faults(calm());
        let (world, mut rng) = (self.copy(), rng.fork());
        let ended = sim::run(&self.disk, move |machine| async move {
            let pool =
                machine.open_pool(OpenOptions::new()).await.map_err(|e| format!("opening on a calm disk: {e}"))?;
            world.take_stock(&machine, &pool).await?;
            give_back_what_counts_as_used(&machine, &pool).await?;
            check_clean(&pool, true, "on a calm disk").await?;
            world.everybody(&machine, &pool, 20, &mut rng).await;
            world.settle(&machine, &pool).await?;
            for volume in pool.list_volumes() {
                let _names = pool.delete_volume(&volume.name, true).await.map_err(|e| format!("deleting all: {e}"))?;
            }
            for history in &world.histories {
                *history.borrow_mut() = History::default();
            }
            pool.wait_deleted().await.map_err(|e| format!("waiting for deletion of all: {e}"))?;
            pool.checkpoint().await.map_err(|e| format!("the last checkpoint: {e}"))?;
            check_clean(&pool, true, "in the end").await?;
            // Segments that are being given back count as neither free nor used for a moment.
            let mut patience = 50;
            let mut stats = pool.stats();
            while stats.free + stats.used != stats.capacity && patience > 0 {
                machine.reactor().sleep(Duration::from_millis(100)).await;
                (stats, patience) = (pool.stats(), patience - 1);
            }
            let pages = stats.used / 4096;
            if stats.deleting + stats.branch_points > 0 || stats.free + stats.used != stats.capacity || pages > 16 {
                return Err(format!("something is left when all is deleted: {stats:?}"));
            }
            Ok(())
        });
        ended.map_err(|_| "the pool hangs on a calm disk".to_owned())?
    }
}

/// A piece of the free map was damaged, and so was what it follows from: the pool was opened with all of that piece in use, and a repair
/// gives it back when the rest is whole. Nothing but damage, or an error of the disk, may lead to that.
async fn give_back_what_counts_as_used(machine: &Machine, pool: &LocalPool) -> Result<(), String> {
    let plan = pool.plan_repair(false, |_, _| {}).await.map_err(|e| format!("planning a repair: {e}"))?;
    let only_space = plan.actions.iter().all(|action| matches!(action.step, RepairStep::FreeBlocks { .. }));
    if !plan.actions.is_empty() && only_space && excuses(machine.disk()) > 0 {
        let _report = pool.repair(&plan, |_, _| {}).await.map_err(|e| format!("repairing: {e}"))?;
    }
    Ok(())
}

/// What was acknowledged from memory and could not be written is written on a calm disk, when its client knows and the volume is opened anew.
async fn write_what_failed(machine: &Machine, pool: &LocalPool) -> Result<(), String> {
    if pool.checkpoint().await.is_ok() {
        return Ok(());
    }
    // Reads that were left in flight have their volumes open.
    machine.reactor().sleep(Duration::from_secs(3600)).await;
    for volume in pool.list_volumes() {
        // One that is filling has nothing in memory.
        drop(volume.name.parse().map(|name| pool.open(&name)));
    }
    pool.checkpoint().await.map_err(|e| format!("what had failed fails on a calm disk: {e}"))
}

/// Runs until the first of two is done.
async fn before(end: impl Future<Output = ()>, work: impl Future<Output = ()>) {
    let mut end = std::pin::pin!(end);
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(|cx| {
        if end.as_mut().poll(cx).is_ready() || work.as_mut().poll(cx).is_ready() {
            return std::task::Poll::Ready(());
        }
        std::task::Poll::Pending
    })
    .await;
}
