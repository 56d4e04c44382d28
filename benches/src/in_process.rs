//! The load on a volume in-process: tasks on the pool's reactor, as an export's requests are.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use cairn_engine::{IoBuf, LocalVolume, Pool, Result};

use crate::{
    row::{Kind, Row},
    spread::Spread,
};

fn noise(seed: u64, len: usize) -> IoBuf {
    let mut spread = Spread::new(seed);
    let mut buf = IoBuf::with_len(len);
    for chunk in buf.chunks_exact_mut(8) {
        chunk.copy_from_slice(&spread.next().to_le_bytes());
    }
    buf
}

/// Writes the whole volume once, sequentially.
///
/// # Errors
/// The volume's.
pub async fn fill(pool: &Pool, volume: &str, size: u64) -> Result<()> {
    let volume = pool.volume(volume).await?;
    let data = noise(1, 1 << 20);
    for offset in (0..size).step_by(1 << 20) {
        volume.write(offset, data.clone()).await?;
    }
    volume.flush().await
}

/// Runs a row for `seconds` in `row.depth` tasks on the reactor; requests a second.
///
/// # Errors
/// The volume's.
pub async fn measure(pool: &Pool, volume: &str, row: Row, size: u64, seconds: u32) -> Result<f64> {
    let target = volume.parse()?;
    pool.run(move |pool| async move {
        let volume = pool.open(&target)?;
        let done = Rc::new(Cell::new(0u64));
        let cursor = Rc::new(Cell::new(0u64));
        let start = Instant::now();
        let end = start + Duration::from_secs(u64::from(seconds));
        let tasks: Vec<_> = (0..row.depth)
            .map(|i| {
                let work = work(volume.clone(), row, size, end, u64::from(i), (done.clone(), cursor.clone()));
                pool.reactor().spawn(work)
            })
            .collect();
        for task in tasks {
            task.await?;
        }
        Ok(done.get() as f64 / start.elapsed().as_secs_f64())
    })
    .await?
}

type Shared = (Rc<Cell<u64>>, Rc<Cell<u64>>);

async fn work(volume: LocalVolume, row: Row, size: u64, end: Instant, seed: u64, (done, cursor): Shared) -> Result<()> {
    let mut spread = Spread::new(seed.wrapping_mul(7_919).wrapping_add(0xca1c));
    let places = size / row.block;
    let data = noise(seed, row.block as usize);
    while Instant::now() < end {
        let place = match row.kind {
            Kind::RandomRead | Kind::RandomWrite => spread.next() % places,
            Kind::Read | Kind::Write => cursor.replace((cursor.get() + 1) % places),
        };
        match row.kind {
            Kind::RandomRead | Kind::Read => drop(volume.read(place * row.block, row.block as usize).await?),
            Kind::RandomWrite | Kind::Write => volume.write(place * row.block, data.clone(), false).await?,
        }
        if row.fsync {
            volume.flush().await?;
        }
        done.set(done.get() + 1);
    }
    Ok(())
}
