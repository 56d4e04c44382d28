//! All interleavings of small casts: writers, collectors, a deleter, one who takes a dead session over, a verifier. Each step of an actor is
//! one access to the repository: a look at the log, a record, an object. After every step, whatever came before it, all that backups
//! need is there.
//!
//! Situations that were come to before by other ways are not gone on from again; their ways are counted all the same, so that a search
//! that finds nothing because it looks at nothing is noticed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    packs::{PackName, Packs},
    record::{Backup, Change, Origin, Record, Root, Statistics},
    state::{Refusal, State},
};

type Content = BTreeSet<u8>;

/// Attempts of an actor that others come before.
const ATTEMPTS: u8 = 2;

/// The repository, and what is to be true of it.
#[derive(Clone, Debug, Default)]
struct World {
    state: State,
    /// Packs that were ever put, with their chunks.
    put: BTreeMap<PackName, Content>,
    deleted: BTreeSet<PackName>,
    needs: BTreeMap<String, Content>,
    rotten: BTreeSet<(PackName, u8)>,
    /// Chunks of which a whole copy was there when damage was told: it has to stay.
    saved: BTreeSet<u8>,
}

#[derive(Clone, Debug)]
enum Actor {
    Writer(Writer),
    Collector(Collector),
    Remover(Option<Change>),
    Taker {
        at: u8,
        found: Packs,
    },
    /// Ends somebody's session, in the belief that its program is gone.
    Ender(Option<&'static str>),
    Verifier(Vec<(PackName, u8)>),
}

fn pack(session: &str, number: u32) -> PackName {
    PackName { session: session.to_owned(), number }
}

fn chunk(number: u8) -> String {
    format!("{number:064x}")
}

fn backup(id: &str, parent: Option<&str>) -> Backup {
    let origin =
        Origin { pool: "p".to_owned(), volume: "v".to_owned(), volume_id: 1, snapshot: id.to_owned(), version: 1 };
    Backup {
        id: id.to_owned(),
        number: 0,
        origin,
        data_ms: 0,
        finished_ms: 0,
        size: 0,
        parent: parent.map(str::to_owned),
        reason: String::new(),
        root: Root { page: chunk(0), height: 0 },
        statistics: Statistics::default(),
        labels: BTreeMap::new(),
    }
}

impl World {
    fn write(&mut self, session: &str, change: Change) -> Result<(), Refusal> {
        let record = Record {
            number: self.state.number + 1,
            nonce: String::new(),
            previous: String::new(),
            time_ms: 0,
            session: session.to_owned(),
            change,
        };
        let judged = self.state.judge(session, &record.change);
        assert_eq!(self.state.apply(&record, ""), judged);
        judged
    }

    fn must(&mut self, session: &str, change: Change) {
        let text = format!("{change:?}");
        self.write(session, change).unwrap_or_else(|refusal| panic!("{text}: {refusal:?}"));
    }

    /// Where a chunk is, best copy first, to one who read the log when it came to `state`.
    fn copies(&self, state: &State, chunk: u8) -> Vec<PackName> {
        let mut copies: Vec<PackName> = self
            .put
            .iter()
            .filter(|(p, c)| c.contains(&chunk) && state.packs.contains(p))
            .map(|(p, _)| p.clone())
            .collect();
        copies.sort_by_key(|p| (is_damaged(state, p, chunk), is_condemned(state, p), p.clone()));
        copies
    }

    fn there(&self) -> impl Iterator<Item = (&PackName, &Content)> {
        self.put.iter().filter(|(pack, _)| !self.deleted.contains(pack))
    }

    /// A backup with all that it needs in packs of its own session.
    fn with(mut self, id: &str, parent: Option<&str>, packs: &[&[u8]], needs: &[u8]) -> Self {
        self.must(id, Change::Begin { client: String::new() });
        let mut new = Packs::default();
        for (number, chunks) in (1..).zip(packs) {
            new.insert(&pack(id, number));
            let _none = self.put.insert(pack(id, number), chunks.iter().copied().collect());
        }
        let _none = self.needs.insert(id.to_owned(), needs.iter().copied().collect());
        self.must(id, Change::Commit { backup: Box::new(backup(id, parent)), new, uses: Packs::default() });
        self.must(id, Change::End);
        self
    }

    fn without(mut self, id: &str) -> Self {
        self.must("", Change::Delete { backups: vec![id.to_owned()] });
        self
    }

    /// A session that uploaded a pack and died.
    fn with_dead(mut self, id: &str, chunks: &[u8]) -> Self {
        self.must(id, Change::Begin { client: String::new() });
        let _none = self.put.insert(pack(id, 1), chunks.iter().copied().collect());
        self
    }

    fn check(&self) {
        for id in self.state.backups.keys() {
            for chunk in &self.needs[id] {
                let mut copies = self.there().filter(|(p, c)| {
                    let whole = !self.saved.contains(chunk) || !self.rotten.contains(&((*p).clone(), *chunk));
                    whole && c.contains(chunk) && self.state.packs.contains(p)
                });
                assert!(copies.next().is_some(), "chunk {chunk} of backup {id} is lost");
            }
        }
        for pack in self.state.packs.names() {
            assert!(!self.state.dropped.contains(&pack), "{pack} was dropped and is relied on");
            assert!(self.put.contains_key(&pack) && !self.deleted.contains(&pack), "{pack} is relied on and not there");
        }
    }
}

fn is_damaged(state: &State, pack: &PackName, number: u8) -> bool {
    state.is_damaged(pack, &chunk(number))
}

fn is_condemned(state: &State, pack: &PackName) -> bool {
    state.packs.get(pack).is_some_and(|pack| pack.condemned.is_some())
}

/// Makes a backup, as `create` does.
#[derive(Clone, Debug)]
struct Writer {
    name: &'static str,
    parent: Option<&'static str>,
    /// Beside what its parent needs.
    wants: &'static [u8],
    attempt: u8,
    at: Writing,
}

#[derive(Clone, Debug)]
enum Writing {
    Begin,
    Look,
    Upload(Content, Packs),
    Commit(Packs, Packs),
    /// Whether all is done then.
    End(bool),
    Done,
}

impl Writer {
    fn actor(name: &'static str, parent: Option<&'static str>, wants: &'static [u8]) -> Actor {
        Actor::Writer(Self { name, parent, wants, attempt: 1, at: Writing::Begin })
    }

    fn step(&mut self, world: &mut World) {
        let session = format!("{}-{}", self.name, self.attempt);
        self.at = match std::mem::replace(&mut self.at, Writing::Done) {
            Writing::Begin => {
                world.must(&session, Change::Begin { client: String::new() });
                Writing::Look
            }
            Writing::Look => {
                let (mut new, mut uses) = (Content::new(), Packs::default());
                for chunk in self.wants {
                    match world.copies(&world.state, *chunk).first().filter(|p| !is_damaged(&world.state, p, *chunk)) {
                        Some(pack) => uses.insert(pack),
                        None => drop(new.insert(*chunk)),
                    }
                }
                // One whose parent is gone makes a full one.
                self.parent = self.parent.filter(|id| world.state.backups.contains_key(*id));
                match new.is_empty() {
                    true => Writing::Commit(Packs::default(), uses),
                    false => Writing::Upload(new, uses),
                }
            }
            Writing::Upload(new, uses) => {
                let name = pack(&session, 1);
                let _none = world.put.insert(name.clone(), new);
                Writing::Commit([name].into_iter().collect(), uses)
            }
            Writing::Commit(new, uses) => {
                let mut needs: Content = self.wants.iter().copied().collect();
                needs.extend(self.parent.into_iter().flat_map(|id| world.needs[id].clone()));
                let _none = world.needs.insert(self.name.to_owned(), needs);
                let change = Change::Commit { backup: Box::new(backup(self.name, self.parent)), new, uses };
                match world.write(&session, change) {
                    Ok(()) => Writing::End(true),
                    Err(Refusal::PacksGone(_) | Refusal::ParentGone(_)) => Writing::End(false),
                    Err(Refusal::NoSession(_)) => Writing::Done,
                    Err(refusal) => panic!("{} was refused: {refusal:?}", self.name),
                }
            }
            Writing::End(done) => {
                let _ended_already = world.write(&session, Change::End);
                self.attempt += 1;
                if done || self.attempt > ATTEMPTS { Writing::Done } else { Writing::Begin }
            }
            Writing::Done => unreachable!("it is done"),
        };
    }
}

/// Collects garbage, as `collect` does: whatever is not needed goes.
#[derive(Clone, Debug)]
struct Collector {
    name: &'static str,
    attempt: u8,
    at: Collecting,
}

#[derive(Clone, Debug, Default)]
struct Plan {
    seen: u64,
    unneeded: Packs,
    rewrite: Packs,
    moved: Content,
}

#[derive(Clone, Debug)]
enum Collecting {
    Plan,
    Begin(Plan),
    Upload(Plan),
    Repack(Plan),
    /// With what the record came to.
    End(bool),
    Condemn(Plan),
    List,
    Look(Vec<PackName>),
    Drop(Vec<PackName>, Packs),
    Delete(Vec<PackName>),
    Done,
}

impl Collector {
    fn actor(name: &'static str) -> Actor {
        Actor::Collector(Self { name, attempt: 1, at: Collecting::Plan })
    }

    fn plan(world: &World) -> Plan {
        let state = &world.state;
        let marked: Content = state.backups.keys().flat_map(|id| world.needs[id].iter().copied()).collect();
        let mut plan = Plan { seen: state.number, ..Plan::default() };
        for (name, pack_state) in state.packs.iter().filter(|(p, _)| !state.sessions.contains_key(&p.session)) {
            let is_needed = |c: &u8| marked.contains(c) && world.copies(state, *c).first() == Some(&name);
            let (needed, unneeded): (Content, Content) = world.put[&name].iter().partition(|c| is_needed(c));
            if needed.is_empty() {
                if pack_state.condemned.is_none() {
                    plan.unneeded.insert(&name);
                }
            } else if !unneeded.is_empty() {
                plan.rewrite.insert(&name);
                plan.moved.extend(needed);
            }
        }
        plan
    }

    fn again(&mut self) -> Collecting {
        self.attempt += 1;
        if self.attempt > ATTEMPTS { Collecting::Done } else { Collecting::Plan }
    }

    fn step(&mut self, world: &mut World) {
        let session = format!("{}-{}", self.name, self.attempt);
        self.at = match std::mem::replace(&mut self.at, Collecting::Done) {
            Collecting::Plan => {
                let plan = Self::plan(world);
                match (plan.rewrite.is_empty(), plan.unneeded.is_empty()) {
                    (false, _) => Collecting::Begin(plan),
                    (true, false) => Collecting::Condemn(plan),
                    (true, true) => Collecting::List,
                }
            }
            Collecting::Begin(plan) => {
                world.must(&session, Change::Begin { client: String::new() });
                Collecting::Upload(plan)
            }
            Collecting::Upload(plan) => {
                let _none = world.put.insert(pack(&session, 1), plan.moved.clone());
                Collecting::Repack(plan)
            }
            Collecting::Repack(Plan { seen, unneeded, rewrite, moved }) => {
                let old: Packs = unneeded.names().chain(rewrite.names()).collect();
                let new = [pack(&session, 1)].into_iter().collect();
                match world.write(&session, Change::Repack { new, old: old.clone(), seen }) {
                    // Others have come to rely on some: those are left out.
                    Err(Refusal::PacksInUse(used)) => {
                        let left = |packs: &Packs| packs.names().filter(|p| !used.contains(p)).collect::<Packs>();
                        let (unneeded, rewrite) = (left(&unneeded), left(&rewrite));
                        match unneeded.is_empty() && rewrite.is_empty() {
                            true => Collecting::End(true),
                            false => Collecting::Repack(Plan { seen, unneeded, rewrite, moved }),
                        }
                    }
                    other => Collecting::End(judged(other)),
                }
            }
            Collecting::End(done) => {
                world.must(&session, Change::End);
                if done { Collecting::List } else { self.again() }
            }
            Collecting::Condemn(Plan { seen, unneeded, .. }) => {
                match world.write("", Change::Condemn { packs: unneeded.clone(), seen }) {
                    Err(Refusal::PacksInUse(used)) => {
                        let unneeded: Packs = unneeded.names().filter(|p| !used.contains(p)).collect();
                        match unneeded.is_empty() {
                            true => Collecting::List,
                            false => Collecting::Condemn(Plan { seen, unneeded, ..Plan::default() }),
                        }
                    }
                    other if judged(other.clone()) => Collecting::List,
                    _ => self.again(),
                }
            }
            Collecting::List => Collecting::Look(world.there().map(|(pack, _)| pack.clone()).collect()),
            Collecting::Look(listed) => {
                let state = &world.state;
                let mut going: Packs =
                    state.packs.iter().filter(|(_, p)| p.condemned.is_some()).map(|(name, _)| name).collect();
                let is_known = |p: &PackName| state.packs.contains(p) || state.dropped.contains(p);
                listed
                    .iter()
                    .filter(|p| !is_known(p) && !state.sessions.contains_key(&p.session))
                    .for_each(|p| going.insert(p));
                Collecting::Drop(listed, going)
            }
            Collecting::Drop(listed, going) => {
                let dropped = going.is_empty() || judged(world.write("", Change::Drop { packs: going }));
                match dropped {
                    true => {
                        Collecting::delete(listed.into_iter().filter(|p| world.state.dropped.contains(p)).collect())
                    }
                    false => Collecting::List,
                }
            }
            Collecting::Delete(mut left) => {
                world.deleted.extend(left.pop());
                Collecting::delete(left)
            }
            Collecting::Done => unreachable!("it is done"),
        };
    }
}

impl Collecting {
    fn delete(left: Vec<PackName>) -> Self {
        if left.is_empty() { Self::Done } else { Self::Delete(left) }
    }
}

fn judged(written: Result<(), Refusal>) -> bool {
    match written {
        Ok(()) => true,
        Err(Refusal::PacksInUse(_) | Refusal::Collected) => false,
        Err(refusal) => panic!("a collection was refused: {refusal:?}"),
    }
}

impl Actor {
    fn is_done(&self) -> bool {
        match self {
            Self::Writer(writer) => matches!(writer.at, Writing::Done),
            Self::Collector(collector) => matches!(collector.at, Collecting::Done),
            Self::Remover(change) => change.is_none(),
            Self::Taker { at, .. } => *at == 5,
            Self::Verifier(left) => left.is_empty(),
            Self::Ender(session) => session.is_none(),
        }
    }

    fn step(&mut self, world: &mut World) {
        match self {
            Self::Writer(writer) => writer.step(world),
            Self::Collector(collector) => collector.step(world),
            // What somebody hung on it meanwhile keeps it.
            Self::Remover(change) => drop(world.write("", change.take().unwrap())),
            Self::Ender(session) => drop(world.write(session.take().unwrap(), Change::End)),
            Self::Taker { at, found } => {
                match *at {
                    0 => world.must("taker", Change::Begin { client: String::new() }),
                    1 => world.must("dead", Change::End),
                    2 => *found = world.there().map(|(p, _)| p.clone()).filter(|p| p.session == "dead").collect(),
                    3 if found.is_empty() => {}
                    // One that was collected meanwhile is gone.
                    3 => drop(world.write("taker", Change::Add { packs: found.clone() })),
                    _ => world.must("taker", Change::End),
                }
                *at += 1;
            }
            Self::Verifier(left) => {
                let (pack, number) = left.pop().unwrap();
                let damage = Change::Damage { pack: pack.to_string(), chunks: vec![chunk(number)] };
                if world.write("", damage).is_ok() {
                    let state = &world.state;
                    let others = world.copies(state, number);
                    if others.iter().any(|p| !world.rotten.contains(&(p.clone(), number))) {
                        let _new = world.saved.insert(number);
                    }
                }
            }
        }
    }
}

/// How many ways lead from here to the end.
fn ways(world: &World, actors: &[Actor], known: &mut HashMap<blake3::Hash, u128>) -> u128 {
    let key = blake3::hash(format!("{world:?}{actors:?}").as_bytes());
    if let Some(ways) = known.get(&key) {
        return *ways;
    }
    let mut found = 0;
    for (i, actor) in actors.iter().enumerate().filter(|(_, actor)| !actor.is_done()) {
        let (mut world, mut actors, mut actor) = (world.clone(), actors.to_vec(), actor.clone());
        actor.step(&mut world);
        world.check();
        actors[i] = actor;
        found += ways(&world, &actors, known);
    }
    if actors.iter().all(Actor::is_done) {
        at_rest(world.clone());
        found = 1;
    }
    let _none = known.insert(key, found);
    found
}

/// When nobody else comes, one or two collections leave what is needed and nothing else.
fn at_rest(mut world: World) {
    let dead: Vec<String> = world.state.sessions.keys().cloned().collect();
    dead.iter().for_each(|id| world.must(id, Change::End));
    for name in ["last-a", "last-b"] {
        let mut actor = Collector::actor(name);
        while !actor.is_done() {
            actor.step(&mut world);
            world.check();
        }
    }
    let marked: Content = world.state.backups.keys().flat_map(|id| world.needs[id].iter().copied()).collect();
    let stored: Vec<u8> = world.there().flat_map(|(_, content)| content.iter().copied()).collect();
    assert_eq!(stored.len(), marked.len(), "{world:?}");
}

/// A search of all ways, each of which ends well.
fn search(world: World, cast: &[Actor]) -> u128 {
    world.check();
    ways(&world, cast, &mut HashMap::new())
}

fn delete(id: &str) -> Actor {
    Actor::Remover(Some(Change::Delete { backups: vec![id.to_owned()] }))
}

/// Pack `old/1` is needed by nobody, `kept/1` half.
fn garbage() -> World {
    World::default().with("kept", None, &[&[2, 3]], &[3]).with("old", None, &[&[1]], &[1]).without("old")
}

#[test]
fn two_writers_rely_on_what_a_collector_is_about_to_delete() {
    let cast = [Writer::actor("x", None, &[1, 4]), Writer::actor("y", None, &[2, 4]), Collector::actor("c")];
    assert_eq!(search(garbage(), &cast), 32_088_035_994);
}

#[test]
fn two_collectors_that_each_count_on_the_copies_of_the_other() {
    let twice = World::default().with("a", None, &[&[1, 2]], &[1, 2]).with("b", None, &[&[1, 5], &[2]], &[1, 2]);
    let cast = [Writer::actor("x", Some("a"), &[1, 5]), Collector::actor("c"), Collector::actor("d")];
    assert_eq!(search(twice, &cast), 1_464_580_074);
}

#[test]
fn a_parent_goes_while_a_backup_is_made_on_it() {
    let chain = World::default().with("p", None, &[&[1, 2]], &[1, 2]).with("q", None, &[&[3]], &[3]);
    let merge = Actor::Remover(Some(Change::Merge { backup: "q".to_owned() }));
    let cast = [Writer::actor("x", Some("p"), &[3, 4]), delete("p"), merge, Collector::actor("c")];
    assert_eq!(search(chain, &cast), 342_436);
}

#[test]
fn a_dead_session_is_taken_over_while_garbage_is_collected() {
    let dead = garbage().with_dead("dead", &[6, 7]);
    let cast =
        [Actor::Taker { at: 0, found: Packs::default() }, Writer::actor("x", None, &[6, 1]), Collector::actor("c")];
    assert_eq!(search(dead, &cast), 882_110_406);
}

#[test]
fn damage_is_found_while_the_other_copy_is_about_to_be_deleted() {
    let mut twice = World::default().with("a", None, &[&[1]], &[1]).with("b", None, &[&[1, 2]], &[1, 2]);
    let rotten = (pack("a", 1), 1);
    let _new = twice.rotten.insert(rotten.clone());
    let cast = [Actor::Verifier(vec![rotten]), Writer::actor("x", None, &[1, 4]), Collector::actor("c")];
    assert_eq!(search(twice.clone(), &cast), 50_701);
    let cast = [Actor::Verifier(vec![(pack("a", 1), 1)]), Collector::actor("c"), Collector::actor("d")];
    assert_eq!(search(twice, &cast), 57_197_794);
}

#[test]
fn a_parent_goes_before_two_collectors() {
    let world = World::default().with("p", None, &[&[8]], &[8]).with("old", None, &[&[1]], &[1]).without("old");
    let cast = [Writer::actor("x", Some("p"), &[1]), delete("p"), Collector::actor("c"), Collector::actor("d")];
    assert_eq!(search(world, &cast), 44_769_779_438);
}

#[test]
fn a_session_that_lives_is_ended_by_somebody_else() {
    let cast = [Actor::Ender(Some("x-1")), Writer::actor("x", None, &[1, 4]), Collector::actor("c")];
    assert_eq!(search(garbage(), &cast), 96_616);
}
