//! Crash exploration: a recorded run is stopped before every operation of the storage that decides what a crash leaves, and looked at with
//! several subsets of what was not durable; then the recovery itself is stopped at every operation in the same way.

use std::{
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
};

use cairn_engine::{
    MIB, OpenOptions, PoolOptions,
    sim::{self, Counters, Disk, Recording, Replay, Rng, Survivors},
};

use crate::{
    choices::Choices,
    client::{Client, Go, Habits, Shared, calm},
    history::History,
    model::Family,
    verify::{read_all, use_pool, verify},
};

/// What to explore.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Seed of the recorded run.
    pub seed: u64,
    /// Operations of each client.
    pub operations: u64,
    /// Look at every so many moments, and at which of them: 1 and 0 for all.
    pub stride: (usize, usize),
    /// Stop the recovery, too, of one in so many crashes (0: never).
    pub recoveries: u64,
    /// Only this moment (and these survivors), to replay a failure.
    pub only: Option<(usize, Option<Survivors>)>,
}

/// What was looked at.
#[derive(Clone, Copy, Default, Debug)]
pub struct Explored {
    /// Crash points: different moments of a run.
    pub points: u64,
    /// Pools that were opened and verified; several for each point.
    pub images: u64,
    /// Crash points within recoveries.
    pub recovery_points: u64,
    /// Operations of clients.
    pub operations: u64,
}

impl Explored {
    /// Adds what another exploration looked at.
    pub fn add(&mut self, other: &Self) {
        self.points += other.points;
        self.images += other.images;
        self.recovery_points += other.recovery_points;
        self.operations += other.operations;
    }
}

/// How the run of a seed is: every kind of pool comes up.
fn habits(seed: u64) -> (Habits, u64, usize) {
    let small = Habits { volumes: 4, sizes: &[1, 2, 3], longest: 60, writes: 45, flush_series: 0, ..Habits::default() };
    match seed % 6 {
        0 => (Habits { sizes: &[1, 3, 300, 70_000], ..small }, 32 * MIB, 2),
        1 => (Habits { longest: 1200, writes: 70, sizes: &[8, 16], ..small }, 32 * MIB, 2),
        2 => (Habits { flush_series: 30, ..small }, 32 * MIB, 1),
        3 => (Habits { sizes: &[300], volumes: 6, writes: 25, ..small }, 48 * MIB, 3),
        4 => (Habits { writes: 20, ..small }, 32 * MIB, 1),
        _ => (small, 32 * MIB, 3),
    }
}

/// A recorded run.
struct Run {
    recording: Recording,
    histories: Vec<Rc<RefCell<History>>>,
    /// The moment at which the pool had been made.
    made: usize,
    operations: u64,
}

fn record(plan: &Plan) -> Result<Run, String> {
    let (mut habits, bytes, clients) = habits(plan.seed);
    habits.restores = plan.seed / 6 % 2 == 1;
    let habits = habits.with_writeback(plan.seed / 12 % 2 == 1);
    let disk = Disk::new(bytes, plan.seed);
    disk.set_faults(calm());
    disk.record();
    let histories: Vec<Rc<RefCell<History>>> = (0..clients).map(|_| Rc::default()).collect();
    let (operations, made) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let (counted, at, shared_histories, plan) = (operations.clone(), made.clone(), histories.clone(), *plan);
    let ended = sim::run(&disk, move |machine| async move {
        let pool = machine.create_pool(PoolOptions::new()).await.map_err(|e| e.to_string())?;
        at.set(machine.disk().moment());
        let shared = Rc::new(Shared {
            pool,
            disk: machine.disk().clone(),
            habits,
            tick: Rc::new(Cell::new(1)),
            operations: counted,
            began: Counters::default(),
        });
        let mut rng = Rng::new(plan.seed);
        let tasks: Vec<_> = shared_histories
            .into_iter()
            .enumerate()
            .map(|(number, history)| {
                let client = Client::new(shared.clone(), history, number, Choices::Seeded(rng.fork()));
                machine.reactor().spawn(async move { client.live(plan.operations).await })
            })
            .collect();
        for task in tasks {
            if task.await == Go::Stop {
                return Err("the pool stopped without a fault of the disk".to_owned());
            }
        }
        Ok(())
    });
    ended.map_err(|_| "the recorded run hangs".to_owned())??;
    let recording = disk.take_recording().ok_or("nothing was recorded")?;
    Ok(Run { recording, histories, made: made.get(), operations: operations.get() })
}

/// The subsets that are looked at for a crash here.
fn subsets(replay: &Replay<'_>, rng: &mut Rng) -> Vec<Survivors> {
    let unsynced = replay.unsynced();
    if unsynced == 0 {
        return vec![Survivors::All];
    }
    let torn = rng.next_u64();
    let mut all = vec![Survivors::All, Survivors::None, Survivors::Torn(torn), Survivors::Torn(torn / 3 * 3)];
    if unsynced > 1 {
        // Each one missing; of very many, some.
        let step = (unsynced / 6).max(1);
        all.extend((0..unsynced).step_by(step).map(Survivors::AllBut));
        all.push(Survivors::Only(rng.below(unsynced as u64) as usize));
        all.push(Survivors::Random(rng.next_u64()));
        all.push(Survivors::Torn(rng.next_u64()));
    }
    all
}

/// Runs `f`; a panic in it becomes an error.
pub fn caught<T>(f: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_else(|| "(no text)".to_owned())))
    })
}

/// Explores one run.
///
/// # Errors
/// What was found wrong, and the command that shows it again.
pub fn explore(plan: &Plan) -> Result<Explored, String> {
    let again = |what: String, moment: usize, survivors: Option<Survivors>| {
        let survivors = survivors.map(|s| format!(" --survivors '{s:?}'")).unwrap_or_default();
        format!(
            "{what}\n  replay: cairn-sim crash --seed {} --operations {} --moment {moment}{survivors}",
            plan.seed, plan.operations
        )
    };
    let run = caught(|| record(plan)).map_err(|e| {
        format!("{e}\n  replay: cairn-sim crash --seed {} --operations {} --moment 0", plan.seed, plan.operations)
    })?;
    let histories: Vec<_> = run.histories.iter().map(|h| h.borrow()).collect();
    let histories: Vec<&History> = histories.iter().map(|h| &**h).collect();
    let mut explored = Explored { operations: run.operations, ..Explored::default() };
    let mut replay = run.recording.replay();
    let mut point = 0;
    loop {
        let moment = replay.moment();
        if replay.is_distinct() {
            point += 1;
            let chosen = match plan.only {
                Some((only, _)) => only == moment,
                None => point % plan.stride.0 == plan.stride.1 % plan.stride.0,
            };
            if chosen {
                // Chance depends on the moment alone, so that a replay of one moment sees the same.
                let mut rng = Rng::new(plan.seed ^ (moment as u64) << 20);
                explored.points += 1;
                for survivors in subsets(&replay, &mut rng) {
                    if plan.only.is_some_and(|(_, s)| s.is_some_and(|s| s != survivors)) {
                        continue;
                    }
                    explored.images += 1;
                    let deeper = plan.recoveries > 0 && rng.below(plan.recoveries) == 0;
                    let image = || Disk::from_image(replay.crash(survivors), plan.seed);
                    let disk = if deeper && rng.below(2) == 0 { replay.kill(plan.seed) } else { image() };
                    let looked = caught(|| look(&disk, &histories, moment, run.made, deeper));
                    let found = looked.map_err(|e| again(e, moment, Some(survivors)))?;
                    explored.recovery_points += found;
                }
            }
        }
        if !replay.advance() {
            return Ok(explored);
        }
    }
}

/// One crash; with `deeper`, crashes within its recovery too. Returns how many of these.
fn look(disk: &Disk, histories: &[&History], moment: usize, made: usize, deeper: bool) -> Result<u64, String> {
    match verify(&Disk::from_image(disk.image(), 1), histories, moment) {
        Ok((found, _)) if deeper && moment >= made => recovery(disk, &found, histories, moment),
        Ok(_) => Ok(0),
        // Before the pool was made there may be none.
        Err(e) if moment < made && e.starts_with("opening") => Ok(0),
        Err(e) => Err(e),
    }
}

/// Opens a crashed pool once more, with background work, and stops that at every operation: it must come to the same state. (After
/// a mere kill, what was found may be lost again to a power cut until the pool is open.)
fn recovery(disk: &Disk, found: &[Family], crashed: &[&History], crash: usize) -> Result<u64, String> {
    disk.record();
    let families = found.len();
    let open = Rc::new(Cell::new(0));
    let opened_at = open.clone();
    let opened = sim::run(disk, move |machine| async move {
        let pool = machine.open_pool(OpenOptions::new()).await.map_err(|e| format!("recording a recovery: {e}"))?;
        opened_at.set(machine.disk().moment());
        pool.wait_deleted().await.map_err(|e| format!("deletion in a recovery: {e}"))?;
        let _families = read_all(&pool, families).await.map_err(|e| format!("reading in a recovery: {e}"))?;
        use_pool(&pool).await.map_err(|e| format!("using the pool in a recovery: {e}"))
    });
    opened.map_err(|_| "a recovery hangs".to_owned())??;
    let recording = disk.take_recording().ok_or("nothing was recorded")?;
    let histories: Vec<History> = found.iter().map(|f| History::from(f.clone())).collect();
    let histories: Vec<&History> = histories.iter().collect();
    let mut replay = recording.replay();
    let mut points = 0;
    loop {
        if replay.is_distinct() {
            points += 1;
            for survivors in [Survivors::All, Survivors::None, Survivors::Torn(points)] {
                let again = Disk::from_image(replay.crash(survivors), points);
                let looked = if replay.moment() < open.get() {
                    verify(&again, crashed, crash)
                } else {
                    verify(&again, &histories, usize::MAX)
                };
                let _places =
                    looked.map_err(|e| format!("crash at {} of a recovery ({survivors:?}): {e}", replay.moment()))?;
            }
        }
        if !replay.advance() {
            return Ok(points);
        }
    }
}
