//! The loop that keeps a job's requests in flight. The only one: every target is driven by it.
//!
//! Latencies: from the moment before a request is handed to its lane (with a rate: from when it was due) to the moment after the lane has
//! told of its end. One reading of the clock ends all requests that a turn of the loop has met, before any of them is looked at.
//!
//! Invariant: a request that was begun after the warm-up is counted, however late it ends: the loop ends when nothing is in flight.

use std::time::{Duration, Instant};

use cairn_engine::{Error, Result};

use crate::{
    board::Board,
    lane::{Ask, Done, Kind, Lane},
    work::Work,
};

/// Waits of the system end late by about as much: what is due so soon is waited for awake.
const AWAKE: Duration = Duration::from_micros(80);

/// A request in flight.
#[derive(Clone, Copy)]
struct Flight {
    ask: Ask,
    from: Instant,
}

/// Slots of a lane.
struct Slots {
    free: Vec<usize>,
    flights: Vec<Option<Flight>>,
    /// Whether the buffer holds noise to write.
    noisy: Vec<bool>,
}

impl Slots {
    fn in_flight(&self) -> usize {
        self.flights.len() - self.free.len()
    }
}

/// Why the loop began no further request.
enum Begun {
    /// All slots, or all places, are taken.
    Full,
    /// The next one is due then.
    Later(Instant),
    /// There are none any more.
    Over,
}

/// Time limits of the loop.
struct Times {
    /// What begins from here on is counted.
    from: Instant,
    /// Nothing begins any more.
    until: Option<Instant>,
    /// When the next request is due, and the time between two.
    due: Option<(Instant, Duration)>,
}

/// Runs a job to its end.
///
/// # Errors
/// The first request that failed, by what it was; or the target's.
pub(crate) async fn drive<L: Lane>(lane: &mut L, work: &mut Work, board: &Board) -> Result<()> {
    let (depth, start) = (work.plan.depth, board.start());
    let from = start + work.plan.warm_up;
    let mut times = Times { from, until: work.plan.limit.map(|limit| from + limit), due: work.pace(start) };
    let mut slots = Slots { free: (0..depth).rev().collect(), flights: vec![None; depth], noisy: vec![false; depth] };
    let mut recorder = work.recorder(from);
    let mut done: Vec<Done> = Vec::with_capacity(depth);
    let mut writes = 0u64;
    loop {
        let begun = begin(lane, work, board, &mut slots, &mut times)?;
        if slots.in_flight() == 0 && matches!(begun, Begun::Over) {
            break;
        }
        let until = match begun {
            // Awake, without waiting, when it is soon.
            Begun::Later(due) => Some(due.checked_sub(AWAKE).unwrap_or(due)),
            _ => None,
        };
        lane.wait(until, &mut done).await?;
        if done.is_empty() {
            continue;
        }
        let now = Instant::now();
        recorder.turn(now);
        let (mut requests, mut bytes) = (0, 0);
        for Done { slot, outcome } in done.drain(..) {
            let Some(flight) = slots.flights.get_mut(slot).and_then(Option::take) else { continue };
            let ask = flight.ask;
            outcome.map_err(|error| tell(error, ask))?;
            if flight.from >= times.from {
                recorder.record(ask.kind, ask.length as u64, now.saturating_duration_since(flight.from));
                work.ended.elapsed = now.saturating_duration_since(times.from);
            }
            settle(lane, work, ask, slot);
            if ask.kind != Kind::Flush {
                requests += 1;
                bytes += ask.length as u64;
            }
            writes += u64::from(ask.kind == Kind::Write);
            let flush =
                ask.kind == Kind::Write && work.plan.flush_every.is_some_and(|every| writes.is_multiple_of(every));
            if flush {
                submit(lane, &mut slots, slot, Flight { ask: FLUSH, from: Instant::now() })?;
            } else {
                slots.free.push(slot);
            }
        }
        board.tell(work.job, requests, bytes);
        let left = recorder.take_left();
        if !left.is_empty() {
            board.hand_over(work.job, left, recorder.index());
        }
    }
    if work.plan.flush_at_end {
        flush_once(lane, &mut slots, &mut done).await?;
    }
    if let (Some((due, between)), Some(until)) = (times.due, times.until) {
        let late = until.saturating_duration_since(due).as_secs_f64();
        work.ended.unsent = if board.is_stopped() { 0 } else { (late / between.as_secs_f64()) as u64 };
    }
    board.hand_over(work.job, recorder.end(), u64::MAX);
    Ok(())
}

const FLUSH: Ask = Ask { kind: Kind::Flush, offset: 0, length: 0 };

/// Begins requests while there are slots for them.
fn begin<L: Lane>(lane: &mut L, work: &mut Work, board: &Board, slots: &mut Slots, times: &mut Times) -> Result<Begun> {
    while let Some(&slot) = slots.free.last() {
        let now = Instant::now();
        if work.is_done() || times.until.is_some_and(|until| now >= until) || board.is_stopped() {
            return Ok(Begun::Over);
        }
        if let Some((due, _)) = times.due.filter(|(due, _)| *due > now) {
            return Ok(Begun::Later(due));
        }
        let Some(ask) = work.next() else { break };
        let mut begun = now;
        if ask.kind == Kind::Write {
            let noisy = slots.noisy.get(slot).copied().unwrap_or(false);
            let buffer = lane.buffer(slot).get_mut(..ask.length).unwrap_or_default();
            if work.prepare(ask, buffer, noisy && L::KEEPS) {
                begun = Instant::now();
            }
        }
        if let Some(noisy) = slots.noisy.get_mut(slot) {
            *noisy = ask.kind == Kind::Write;
        }
        let from = match &mut times.due {
            Some((due, between)) => std::mem::replace(due, *due + *between),
            None => begun,
        };
        let _taken = slots.free.pop();
        submit(lane, slots, slot, Flight { ask, from })?;
    }
    Ok(if work.is_done() { Begun::Over } else { Begun::Full })
}

fn submit<L: Lane>(lane: &mut L, slots: &mut Slots, slot: usize, flight: Flight) -> Result<()> {
    lane.submit(slot, flight.ask).map_err(|error| tell(error, flight.ask))?;
    if let Some(place) = slots.flights.get_mut(slot) {
        *place = Some(flight);
    }
    Ok(())
}

/// What the end of a request means for what comes later.
fn settle<L: Lane>(lane: &mut L, work: &mut Work, ask: Ask, slot: usize) {
    if !work.verifies() {
        return;
    }
    let buffer: &[u8] = match ask.kind {
        Kind::Read => lane.answer(slot).get(..ask.length).unwrap_or_default(),
        _ => &[],
    };
    work.ended(ask, buffer);
}

/// Makes what was written durable, uncounted.
async fn flush_once<L: Lane>(lane: &mut L, slots: &mut Slots, done: &mut Vec<Done>) -> Result<()> {
    let Some(slot) = slots.free.pop() else { return Ok(()) };
    submit(lane, slots, slot, Flight { ask: FLUSH, from: Instant::now() })?;
    while done.is_empty() {
        lane.wait(None, done).await?;
    }
    done.drain(..).try_for_each(|done| done.outcome.map_err(|error| tell(error, FLUSH)))
}

fn tell(error: Error, ask: Ask) -> Error {
    match ask.kind {
        Kind::Flush => error.within("flush"),
        kind => error.within(format!("{} of {} bytes at {}", kind.name(), ask.length, ask.offset)),
    }
}
