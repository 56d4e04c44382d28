//! The damage sweep: a pool with all kinds of versions, closed by a power cut, is opened again and again with one bit flipped, in each
//! block of the disk in turn. Whatever is damaged, wrong data never comes back, and what is in use and damaged is noticed.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use cairn_engine::{
    MIB, OpenOptions, PoolOptions,
    sim::{self, Counters, Disk, Image, Rng, Survivors},
};

use crate::{
    choices::Choices,
    client::{Client, Habits, Shared},
    explore::caught,
    history::History,
    model::Family,
    verify::read_all,
};

/// What happened to the pools of a sweep.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Swept {
    /// Bits that were flipped, one at a time.
    pub bits: u64,
    /// The pool was not opened, with an error that says why.
    pub refused: u64,
    /// Reading or checking said what was damaged.
    pub reported: u64,
    /// Nothing depended on the block, or there was another copy.
    pub harmless: u64,
    /// The last journal group was taken for one that never was complete: a prefix of the history.
    pub shortened: u64,
}

/// A pool with a history, as a power cut leaves it, and what it holds: with the last group, and without.
fn prepare(seed: u64) -> Result<(Image, Vec<Family>), String> {
    let disk = Disk::new(32 * MIB, seed);
    let history: Rc<RefCell<History>> = Rc::default();
    let outcome = {
        let history = history.clone();
        sim::run(&disk, move |machine| async move {
            let pool = machine.create_pool(PoolOptions::new()).await.map_err(|e| e.to_string())?;
            let habits = Habits {
                volumes: 3,
                sizes: &[1, 3, 300],
                longest: 40,
                writes: 45,
                restores: seed % 4 == 3,
                ..Habits::default()
            };
            let shared = Rc::new(Shared {
                pool: pool.clone(),
                disk: machine.disk().clone(),
                habits,
                tick: Rc::new(Cell::new(1)),
                operations: Rc::default(),
                began: Counters::default(),
            });
            let client = Client::new(shared, history, 0, Choices::Seeded(Rng::new(seed)));
            let _go = client.live(60).await;
            // Both places of the map and all four superblocks are in use, and the journal has groups behind the checkpoint.
            pool.checkpoint().await.map_err(|e| e.to_string())?;
            pool.checkpoint().await.map_err(|e| e.to_string())?;
            let _go = client.live(25).await;
            client.write_flushed(6).await;
            Ok::<_, String>(())
        })
    };
    outcome.map_err(|_| "preparing hangs".to_owned())??;
    let states: Vec<Family> = {
        let history = history.borrow();
        (0..=history.steps.len()).map(|n| history.state_after(n)).collect()
    };
    Ok((disk.crash(Survivors::All).image(), states))
}

/// Damages every block that is not zero, one at a time.
///
/// # Errors
/// What came back wrong, or went unnoticed.
pub fn sweep(seed: u64) -> Result<Swept, String> {
    let (image, states) = caught(|| prepare(seed))?;
    let whole = caught(|| whole(image.clone()))?;
    let digests: Vec<u64> = states.iter().map(Family::digest).collect();
    if !digests.contains(&whole) {
        return Err("the undamaged pool holds what was never there".to_owned());
    }
    // What the pool holds without the last group; there is only one such state.
    let mut shorter = None;
    let mut swept = Swept::default();
    let mut rng = Rng::new(seed);
    for block in 0..image.blocks() {
        for bit in some_bits(&image.block(block), &mut rng) {
            swept.bits += 1;
            let mut damaged = image.clone();
            damaged.damage(block, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            let failed = |what: &str| {
                format!("bit {bit} of block {block} flipped: {what}\n  replay: cairn-sim damage --seed {seed}")
            };
            match caught(|| open_damaged(damaged, whole, &digests)).map_err(|e| failed(&e))? {
                Kind::Refused => swept.refused += 1,
                Kind::Reported => swept.reported += 1,
                Kind::Harmless => swept.harmless += 1,
                Kind::Shortened(to) if *shorter.get_or_insert(to) == to => swept.shortened += 1,
                Kind::Shortened(_) => return Err(failed("more is gone than the last group")),
            }
        }
    }
    Ok(swept)
}

/// Which bits of a block to flip, one at a time: any one; and of a block that holds little, several of its little.
fn some_bits(block: &[u8], rng: &mut Rng) -> Vec<usize> {
    let used: Vec<u64> = (0..block.len() as u64).filter(|at| block[*at as usize] != 0).collect();
    let mut bytes = Vec::new();
    if !used.is_empty() {
        bytes.push(rng.below(block.len() as u64));
    }
    if (1..512).contains(&used.len()) {
        bytes.extend((0..6).map(|_| used[rng.below(used.len() as u64) as usize]));
    }
    bytes.into_iter().map(|byte| (byte * 8 + rng.below(8)) as usize).collect()
}

enum Kind {
    Refused,
    Reported,
    Harmless,
    Shortened(u64),
}

/// What the undamaged pool holds.
fn whole(image: Image) -> Result<u64, String> {
    let opened = sim::run(&Disk::from_image(image, 1), |machine| async move {
        let pool = machine.open_pool(OpenOptions::new()).await?;
        read_all(&pool, 1).await
    });
    let found = opened.map_err(|_| "the undamaged pool hangs".to_owned())?.map_err(|e| e.to_string())?;
    Ok(found.first().map_or(0, Family::digest))
}

fn open_damaged(image: Image, last: u64, digests: &[u64]) -> Result<Kind, String> {
    let disk = Disk::from_image(image, 1);
    let opened = sim::run(&disk, |machine| async move {
        let Ok(pool) = machine.open_pool(OpenOptions::new()).await else { return Ok(None) };
        let found = read_all(&pool, 1).await.ok();
        let report = pool.check(true, |_, _| {}).await.map_err(|e| e.to_string())?;
        Ok::<_, String>(Some((found, report.is_clean())))
    });
    let Some((found, clean)) = opened.map_err(|_| "the pool hangs".to_owned())?? else { return Ok(Kind::Refused) };
    match found {
        None if clean => Err("reading fails, but the check finds nothing".to_owned()),
        None => Ok(Kind::Reported),
        Some(found) => {
            let digest = found.first().map_or(0, Family::digest);
            match (digest == last, clean) {
                (true, true) => Ok(Kind::Harmless),
                (true, false) => Ok(Kind::Reported),
                // The limit that the engine states: damage to the last group, or to what it names.
                (false, true) if digests.contains(&digest) => Ok(Kind::Shortened(digest)),
                (false, _) => Err("reads return what was never there".to_owned()),
            }
        }
    }
}
