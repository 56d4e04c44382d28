//! A run: requests, replies, quiet points, kills.

use fastrand::Rng;
use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::mpsc::{self, Receiver, Sender},
    time::Duration,
};

use super::{
    Plan,
    control::{Command, Running},
    draw::{self, Step},
    snapshots::Snapshot,
};
use crate::{
    fixture::{Serve, Server, TempPool},
    model::{Change, MOST_OPEN, Model, OperationId, states_of},
    nbd::{Client, Connection, Incoming, Outcome, Request, Wish},
    pattern::{self, SECTOR, Tag},
    tool::Finished,
};

/// Name of the volume under test.
pub(super) const VOLUME: &str = "v";

/// How long the server may leave everything unanswered. Only there so that nothing hangs for ever.
const DEADLINE: Duration = Duration::from_secs(120);

/// What happens to a run.
#[derive(Debug)]
pub(super) enum Event {
    /// On a connection, by its number.
    Connection(u64, Incoming),
    /// A control command has ended.
    Command(Finished),
}

/// A request without its reply.
enum Waiting {
    Read(Range<u64>),
    Change,
    /// The flush is an observer from its submission on: what a crash must keep once it is answered.
    Flush,
}

pub(super) struct Run<'a> {
    pub(super) plan: Plan,
    pub(super) rng: Rng,
    pub(super) server: Option<Server<'a>>,
    pub(super) model: Model,
    pub(super) events: Receiver<Event>,
    pub(super) sender: Sender<Event>,
    connections: Vec<(u64, Connection)>,
    waiting: HashMap<OperationId, Waiting>,
    pub(super) command: Option<Running>,
    pub(super) snapshots: Vec<Snapshot>,
    /// The observer that tells what a crash must keep.
    durable: OperationId,
    last_id: OperationId,
    last_connection: u64,
    /// How often each thing was done.
    pub(super) tally: BTreeMap<&'static str, u32>,
}

/// Carries out a plan on a fresh pool.
///
/// # Panics
/// The server breaks the contract; the message tells seed and step.
pub fn run(plan: Plan) {
    println!("{plan:?}");
    let pool = TempPool::create("256MiB");
    pool.cairn(["volume", "create", VOLUME, "--size", &(plan.sectors * SECTOR as u64).to_string()]);
    let server = if plan.tcp { Serve::tcp() } else { Serve::unix() }.start(&pool);
    let (sender, events) = mpsc::channel();
    let mut run = Run {
        rng: Rng::with_seed(plan.seed),
        server: Some(server),
        model: Model::new(plan.sectors),
        events,
        sender,
        connections: Vec::new(),
        waiting: HashMap::new(),
        command: None,
        snapshots: Vec::new(),
        durable: 0,
        last_id: 0,
        last_connection: 0,
        tally: BTreeMap::new(),
        plan,
    };
    run.model.observe(0, &(0..run.model.sectors()));
    run.connect();
    for step in 0..run.plan.steps {
        let choice = draw::step(&mut run.rng, run.model.sectors(), run.plan.kills);
        let shown = format!("seed {}, step {step}, request {}: {choice:?}", run.plan.seed, run.last_id + 1);
        // Shown when the test fails.
        println!("{shown}");
        let guard = Told(shown);
        run.take(choice);
        drop(guard);
    }
    run.end(&pool);
}

/// Tells, when a step fails, which it was.
struct Told(String);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed at {} (CAIRN_SEED replays it)", self.0);
        }
    }
}

impl<'a> Run<'a> {
    pub(super) fn id(&mut self) -> OperationId {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    pub(super) fn server(&self) -> &Server<'a> {
        self.server.as_ref().expect("there is always a server, but while it is killed")
    }

    fn connect(&mut self) {
        let wish = Wish { export: VOLUME.to_owned(), structured: true };
        for _ in 0..self.plan.connections {
            self.last_connection += 1;
            let (number, sender) = (self.last_connection, self.sender.clone());
            // Nobody listens any more only when the run is over.
            let deliver = move |incoming| drop(sender.send(Event::Connection(number, incoming)));
            let connection =
                Connection::open(&self.server().address(), &wish, deliver).expect("the server takes clients");
            assert_eq!(
                connection.export().size,
                self.model.sectors() * SECTOR as u64,
                "a new connection sees the size"
            );
            assert!(connection.export().is_multi_conn(), "a flush on one connection covers all");
            self.connections.push((number, connection));
        }
    }

    /// Hangs up on all connections, at a quiet point.
    pub(super) fn disconnect(&mut self) {
        assert!(self.waiting.is_empty(), "requests are in flight");
        self.connections.clear();
    }

    pub(super) fn reconnect(&mut self) {
        self.disconnect();
        self.connect();
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Read(sectors) => self.read(sectors),
            Step::Write { sectors, fua } => {
                let tag = self.last_id + 1;
                let data = pattern::bytes(sectors.start, sectors.end - sectors.start, tag);
                let request = Request::Write { offset: sectors.start * SECTOR as u64, data, fua };
                self.change(&sectors.clone(), &request, &Change::Paint(sectors, tag));
            }
            Step::Zero(sectors) => {
                let (offset, length) = bytes_of(&sectors);
                self.change(&sectors.clone(), &Request::WriteZeroes { offset, length }, &Change::Paint(sectors, 0));
            }
            Step::Trim(sectors) => {
                let (offset, length) = bytes_of(&sectors);
                self.change(&sectors.clone(), &Request::Trim { offset, length }, &Change::Discard(sectors));
            }
            Step::Flush => {
                self.count("flushes");
                let id = self.id();
                self.model.observe(id, &(0..self.model.sectors()));
                self.submit(id, &Request::Flush, Waiting::Flush);
            }
            Step::Wait => {
                if !self.waiting.is_empty() {
                    self.wait();
                }
            }
            Step::Control => self.control(),
            Step::Quiet => self.quiet(),
            Step::Kill => self.kill(),
        }
    }

    fn read(&mut self, sectors: Range<u64>) {
        self.count("reads");
        let id = self.id();
        self.model.observe(id, &sectors);
        let (offset, length) = bytes_of(&sectors);
        self.submit(id, &Request::Read { offset, length }, Waiting::Read(sectors));
    }

    /// Submits a request that changes something, once no block of it is too crowded.
    fn change(&mut self, sectors: &Range<u64>, request: &Request, change: &Change) {
        let id = self.id();
        while self.model.crowd(sectors) >= MOST_OPEN {
            self.wait();
        }
        self.count(if self.model.crowd(sectors) > 0 { "changes of blocks being changed" } else { "changes" });
        self.model.begin(id, change);
        self.submit(id, request, Waiting::Change);
    }

    fn submit(&mut self, id: OperationId, request: &Request, waiting: Waiting) {
        while self.waiting.len() >= self.plan.depth {
            self.wait();
        }
        self.waiting.insert(id, waiting);
        let choice = self.rng.usize(0..self.connections.len());
        self.connections[choice].1.submit(id, request).expect("the server takes requests");
    }

    /// Waits for one thing to happen.
    pub(super) fn wait(&mut self) {
        match self.events.recv_timeout(DEADLINE) {
            Ok(Event::Connection(_, Incoming::Reply(id, outcome))) => self.answered(id, outcome),
            Ok(Event::Connection(number, Incoming::Ended)) => {
                assert!(
                    !self.connections.iter().any(|(open, _)| *open == number),
                    "the server hung up on connection {number}"
                );
            }
            Ok(Event::Connection(_, Incoming::Violation(text))) => panic!("the server broke the protocol: {text}"),
            Ok(Event::Command(finished)) => self.command_ended(&finished.ok()),
            Err(error) => panic!("nothing happened for {DEADLINE:?} ({error}); {} requests wait", self.waiting.len()),
        }
    }

    fn answered(&mut self, id: OperationId, outcome: Outcome) {
        let waiting = self.waiting.remove(&id).expect("the client has matched replies to requests");
        let data = outcome.unwrap_or_else(|error| panic!("request {id} was answered with error {error}"));
        match waiting {
            Waiting::Read(sectors) => {
                let tags = pattern::tags_of(&data, sectors.start).unwrap_or_else(|wrong| panic!("read {id}: {wrong}"));
                let explained = self.model.explain(id, sectors.start, &tags);
                explained.unwrap_or_else(|wrong| panic!("read {id} of sectors {sectors:?}: {wrong}"));
                self.model.forget(id);
            }
            Waiting::Change => self.model.finish(id),
            Waiting::Flush => self.keep_from(id),
        }
    }

    /// From now on a crash must keep what `observer` has seen the beginning of.
    fn keep_from(&mut self, observer: OperationId) {
        // Flushes may be answered in another order than they were asked for: the latest counts.
        let older = observer.min(self.durable);
        self.durable = observer.max(self.durable);
        println!("flush {observer} is answered");
        self.model.forget(older);
    }

    /// Waits for everything.
    pub(super) fn settle(&mut self) {
        while !self.waiting.is_empty() || self.command.is_some() {
            self.wait();
        }
    }

    /// Reads everything at a quiet point, and goes on from what was read.
    pub(super) fn quiet(&mut self) {
        self.settle();
        let tags = self.read_export(VOLUME);
        assert_eq!(tags.len() as u64, self.model.sectors(), "size of the volume");
        let id = self.id();
        self.model.observe(id, &(0..self.model.sectors()));
        self.model.explain(id, 0, &tags).unwrap_or_else(|wrong| panic!("at a quiet point: {wrong}"));
        self.model.forget(id);
        self.model.collapse(self.model.sectors(), &states_of(&tags));
        self.check_a_snapshot();
    }

    /// The tags of a whole export, read on a connection of its own.
    pub(super) fn read_export(&self, export: &str) -> Vec<Tag> {
        let mut client = Client::connect(&self.server().address(), export).expect("the server takes clients");
        let size = client.export().size;
        let mut tags = Vec::new();
        let piece = 1 << 20;
        for offset in (0..size).step_by(piece) {
            let length = (size - offset).min(piece as u64);
            let data = client.read(offset, u32::try_from(length).expect("at most a MiB"));
            let read = pattern::tags_of(&data, offset / SECTOR as u64);
            tags.extend(read.unwrap_or_else(|wrong| panic!("{export}: {wrong}")));
        }
        tags
    }

    /// Kills the server with requests in flight; what comes back must be from no moment before the last flush.
    fn kill(&mut self) {
        self.count("kills");
        // What a command has done when it is cut off is not known: let it end.
        while self.command.is_some() {
            self.wait();
        }
        let server = self.server.take().expect("there is always a server");
        self.server = Some(server.restart_after_kill9());
        self.connections.clear();
        for id in std::mem::take(&mut self.waiting).into_keys() {
            self.model.forget(id);
        }
        // Late news of the connections that are gone, answers included: whether the last requests were answered does
        // not matter to what a crash may keep.
        while self.events.try_recv().is_ok() {}
        let tags = self.read_export(VOLUME);
        assert_eq!(tags.len() as u64, self.model.sectors(), "size of the volume after a crash");
        self.model.explain(self.durable, 0, &tags).unwrap_or_else(|wrong| panic!("after kill -9: {wrong}"));
        self.model.crash();
        self.model.collapse(self.model.sectors(), &states_of(&tags));
        self.start_durable();
        self.check_every_snapshot();
        self.connect();
    }

    /// What is there now is durable.
    pub(super) fn start_durable(&mut self) {
        self.model.forget(self.durable);
        self.durable = self.id();
        self.model.observe(self.durable, &(0..self.model.sectors()));
    }

    /// Begins a command as an operation of the model.
    pub(super) fn start(&mut self, command: Command) {
        let id = self.id();
        println!("command {id}: {command:?}");
        let running = Running::start(id, command, self);
        self.command = Some(running);
    }

    fn end(mut self, pool: &TempPool) {
        self.quiet();
        self.check_every_snapshot();
        self.connections.clear();
        println!("{:?}", self.tally);
        for what in ["reads", "changes", "flushes", "snapshots", "deletions"] {
            assert!(self.tally.contains_key(what), "there were no {what}: give it more steps");
        }
        pool.assert_clean();
        self.server.take().expect("there is always a server").stop();
        pool.assert_clean();
    }
}

/// Offset and length in bytes.
fn bytes_of(sectors: &Range<u64>) -> (u64, u32) {
    let length = u32::try_from((sectors.end - sectors.start) * SECTOR as u64).expect("tests use small volumes");
    (sectors.start * SECTOR as u64, length)
}
