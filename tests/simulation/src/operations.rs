//! Operations that a fuzzer chose: one client, a calm disk, a power cut at the end.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use cairn_engine::{
    MIB, PoolOptions,
    sim::{self, Counters, Disk, Survivors},
};

use crate::{
    choices::Choices,
    client::{Client, Habits, Shared},
    explore::caught,
    history::History,
    verify::verify,
};

/// Operations of one input at most.
const MOST: u64 = 150;

/// Does what `input` says: its first two bytes choose the kind of pool and what survives the power cut, each further byte or three make a
/// decision of the client. Every answer is compared with the model, and so is what is there after the cut. Says whether there were
/// operations at all.
///
/// # Errors
/// What did not hold.
pub fn operations(input: &[u8]) -> Result<bool, String> {
    let [kind, cut, choices @ ..] = input else { return Ok(false) };
    let plain = Habits { volumes: 4, sizes: &[1, 2, 3], longest: 60, writes: 45, flush_series: 0, ..Habits::default() };
    let habits = match kind % 3 {
        0 => plain,
        1 => Habits { sizes: &[300, 70_000], writes: 25, ..plain },
        _ => Habits { sizes: &[8, 16], longest: 1000, writes: 70, ..plain },
    };
    let habits = Habits { restores: *kind >= 128, ..habits }.with_writeback(*kind / 32 % 4 == 3);
    let (disk, history) = (Disk::new(32 * MIB, 1), Rc::<RefCell<History>>::default());
    let (kept, choices) = (history.clone(), Choices::Bytes(choices.iter().copied().collect()));
    let ended = caught(|| {
        let ended = sim::run(&disk, move |machine| async move {
            let pool = machine.create_pool(PoolOptions::new()).await.map_err(|e| e.to_string())?;
            let (tick, operations) = (Rc::new(Cell::new(1)), Rc::default());
            let shared = Rc::new(Shared {
                pool,
                disk: machine.disk().clone(),
                habits,
                tick,
                operations,
                began: Counters::default(),
            });
            let _go = Client::new(shared, kept, 0, choices).live(MOST).await;
            Ok::<_, String>(())
        });
        ended.map_err(|_| "it hangs".to_owned())?
    });
    ended?;
    let survivors = match cut % 4 {
        0 => Survivors::None,
        1 => Survivors::All,
        2 => Survivors::Random(u64::from(*cut)),
        _ => Survivors::Torn(u64::from(*cut)),
    };
    let history = history.borrow();
    let _places = caught(|| verify(&disk.crash(survivors), &[&history], usize::MAX))?;
    Ok(!history.steps.is_empty())
}
