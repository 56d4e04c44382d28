//! Control commands beside requests in flight.

use std::thread;

use super::{
    run::{Event, Run, VOLUME},
    snapshots::Snapshot,
};
use crate::{
    fixture::cairn_in,
    model::{Change, OperationId, SECTORS_PER_BLOCK, states_of},
    pattern::SECTOR,
    tool::{self, Finished},
};

/// Largest size that a volume grows to, in sectors.
const LARGEST: u64 = 16 << 11;

/// Most snapshots at a time.
const MOST_SNAPSHOTS: usize = 12;

/// A command that runs beside requests.
#[derive(Clone, Debug)]
pub(super) enum Command {
    /// Take a snapshot of this name.
    Snapshot(String),
    /// Go back to the snapshot at this place of the list, which has the volume's size.
    Revert(usize),
    /// Grow to so many sectors.
    Grow(u64),
}

/// A command that has not ended.
pub(super) struct Running {
    id: OperationId,
    command: Command,
}

impl Running {
    /// Starts the command and tells the model.
    pub(super) fn start(id: OperationId, command: Command, run: &mut Run<'_>) -> Self {
        let mut process = cairn_in(run.server().pool().path());
        match &command {
            Command::Snapshot(name) => {
                run.count("snapshots");
                run.model.observe(id, &(0..run.model.sectors()));
                process.args(["snapshot", "create", &format!("{VOLUME}@{name}")]);
            }
            Command::Revert(place) => {
                run.count("reverts among requests");
                let snapshot = &run.snapshots[*place];
                run.model.begin(id, &Change::Revert(states_of(&snapshot.tags)));
                process.args(["snapshot", "revert", "--force", &snapshot.export()]);
            }
            Command::Grow(sectors) => {
                run.count("growths");
                process.args(["volume", "resize", VOLUME, "--size", &(sectors * SECTOR as u64).to_string()]);
            }
        }
        let sender = run.sender.clone();
        // Nobody listens any more only when the run has failed.
        thread::spawn(move || drop(sender.send(Event::Command(tool::finish(&mut process, &[])))));
        Self { id, command }
    }
}

impl Run<'_> {
    /// Chooses a command and runs or starts it.
    pub(super) fn control(&mut self) {
        if self.command.is_some() {
            return self.wait();
        }
        match self.rng.u32(0..12) {
            0..4 if self.snapshots.len() < MOST_SNAPSHOTS => {
                let name = format!("s{}", self.id());
                self.start(Command::Snapshot(name));
            }
            4 => self.grow(),
            5 | 6 => self.revert_in_flight(),
            7 => self.revert_at_rest(),
            8 => self.check_a_clone(),
            9 => self.check_a_difference(),
            10 => self.check_a_snapshot(),
            _ => self.delete_a_snapshot(),
        }
    }

    /// What a command that ended well means for the model.
    pub(super) fn command_ended(&mut self, _finished: &Finished) {
        let Running { id, command } = self.command.take().expect("only a running command ends");
        match command {
            Command::Snapshot(name) => {
                let tags = self.read_export(&format!("{VOLUME}@{name}"));
                assert_eq!(tags.len() as u64, self.model.sectors(), "size of the snapshot");
                self.model.explain(id, 0, &tags).unwrap_or_else(|wrong| panic!("snapshot {name}: {wrong}"));
                self.model.forget(id);
                self.snapshots.push(Snapshot { name, tags });
            }
            Command::Revert(_) => self.model.finish(id),
            Command::Grow(sectors) => self.model.grow(sectors),
        }
    }

    fn grow(&mut self) {
        let more = match self.rng.u32(0..3) {
            0 => self.rng.u64(1..8),
            1 => self.rng.u64(1..64) * SECTORS_PER_BLOCK as u64,
            _ => self.rng.u64(1..4096),
        };
        let sectors = self.model.sectors() + more;
        if sectors <= LARGEST {
            self.start(Command::Grow(sectors));
            // Connections keep the size that they were told.
            self.settle();
            self.reconnect();
        }
    }

    fn revert_in_flight(&mut self) {
        // A command is not begun on blocks that are crowded already: its effects join those in flight.
        self.settle_crowd();
        let size = self.model.sectors();
        let fitting: Vec<usize> =
            (0..self.snapshots.len()).filter(|place| self.snapshots[*place].tags.len() as u64 == size).collect();
        if let Some(place) = self.rng.choice(fitting) {
            self.start(Command::Revert(place));
        }
    }

    fn settle_crowd(&mut self) {
        let all = 0..self.model.sectors();
        while self.model.crowd(&all) >= crate::model::MOST_OPEN {
            self.wait();
        }
    }

    /// Goes back to a snapshot of any size, with nobody connected.
    fn revert_at_rest(&mut self) {
        if self.snapshots.is_empty() {
            return;
        }
        self.count("reverts at rest");
        self.settle();
        self.disconnect();
        let place = self.rng.usize(0..self.snapshots.len());
        let (export, tags) = (self.snapshots[place].export(), self.snapshots[place].tags.clone());
        self.server().pool().cairn(["snapshot", "revert", "--force", &export]);
        self.model.collapse(tags.len() as u64, &states_of(&tags));
        self.start_durable();
        self.reconnect();
    }
}
