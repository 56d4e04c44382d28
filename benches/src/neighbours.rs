//! A volume beside one that floods, in-process: nothing of what is measured is a client's, or the network's.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use cairn_engine::{IoBuf, LocalPool, LocalVolume, Pool, Result};

use crate::spread::Spread;

/// Random requests of one size, so many at a time.
#[derive(Clone, Copy)]
pub struct Load {
    /// Whether they write.
    pub writes: bool,
    /// Bytes of each.
    pub block: u64,
    /// How many at a time.
    pub depth: u32,
    /// How many a second at most, evenly spread over the tasks; none: as fast as they go.
    pub rate: Option<f64>,
}

/// What a load came to.
#[derive(Clone, Copy)]
pub struct Came {
    /// Requests a second.
    pub rate: f64,
    /// The 99th percentile of their times, in milliseconds.
    pub p99: f64,
}

struct Run {
    size: u64,
    end: Instant,
    count: Cell<u64>,
    micros: RefCell<Vec<f64>>,
}

/// Runs a load on a volume of `size` bytes for `seconds`, beside another load on another volume, if there is one; what each came to.
///
/// # Errors
/// The volumes'.
pub async fn measure(
    pool: &Pool,
    (volume, load): (&str, Load),
    beside: Option<(&str, Load)>,
    size: u64,
    seconds: u64,
) -> Result<[Came; 2]> {
    let targets = (volume.parse()?, beside.map(|(name, load)| Ok((name.parse()?, load))).transpose()?);
    pool.run(move |pool| async move {
        let (own, beside): (_, Option<(_, Load)>) = targets;
        let end = Instant::now() + Duration::from_secs(seconds);
        let run = || Rc::new(Run { size, end, count: Cell::new(0), micros: RefCell::default() });
        let runs = [run(), run()];
        let [measured, other] = &runs;
        let others = match beside {
            Some((target, load)) => start(&pool, &pool.open(&target)?, load, other),
            None => Vec::new(),
        };
        for task in start(&pool, &pool.open(&own)?, load, measured).into_iter().chain(others) {
            task.await?;
        }
        Ok(runs.map(|run| {
            let mut micros = run.micros.take();
            micros.sort_by(f64::total_cmp);
            let p99 = micros.get(micros.len() * 99 / 100).copied().unwrap_or(0.0) / 1000.0;
            Came { rate: run.count.get() as f64 / seconds as f64, p99 }
        }))
    })
    .await?
}

fn start(
    pool: &LocalPool,
    volume: &LocalVolume,
    load: Load,
    run: &Rc<Run>,
) -> Vec<impl Future<Output = Result<()>> + use<>> {
    (0..load.depth).map(|i| pool.reactor().spawn(work(pool.clone(), volume.clone(), load, i, run.clone()))).collect()
}

async fn work(pool: LocalPool, volume: LocalVolume, load: Load, number: u32, run: Rc<Run>) -> Result<()> {
    let mut spread = Spread::new(u64::from(number) * 7_919 + load.block);
    let data = IoBuf::from(&vec![number as u8 + 1; load.block as usize][..]);
    let pause = load.rate.map(|rate| Duration::from_secs_f64(f64::from(load.depth) / rate));
    let mut due = Instant::now() + pause.unwrap_or_default() * number / load.depth;
    while Instant::now() < run.end {
        if let Some(pause) = pause {
            pool.reactor().sleep(due.saturating_duration_since(Instant::now())).await;
            due += pause;
        }
        let (offset, began) = (spread.next() % (run.size / load.block) * load.block, Instant::now());
        match load.writes {
            true => volume.write(offset, data.clone(), false).await?,
            false => drop(volume.read(offset, load.block as usize).await?),
        }
        run.count.set(run.count.get() + 1);
        run.micros.borrow_mut().push(began.elapsed().as_secs_f64() * 1e6);
    }
    Ok(())
}
