//! From what is on disk to the state at the last commit: the newest valid superblock, the free map, the version table, the journal.

use std::{collections::VecDeque, path::Path, rc::Rc};

use crate::{
    check,
    checkpoint::map::ENTRIES,
    core::{Core, Inherited, read_blocks},
    error::{Error, ErrorKind, Result, corrupt, invalid, unsupported},
    format::{
        pointer::{Place, Pointer},
        superblock::{MARGIN, Superblock, slot_block, slots_of},
    },
    info::Event,
    reactor::Reactor,
    replay::Journal,
    space::{
        Space,
        bitmap::Run,
        reach::{PIECE_BLOCKS, Reach},
    },
    storage::{Op, buffer::IoBuf},
    units::{BLOCK, BLOCK_SIZE},
    versions::table::decode_page,
};

/// The newest valid superblock, what was found in its slots, and events for copies that are not usable.
pub(crate) async fn read_superblock(
    reactor: &Reactor,
    size: u64,
    path: &Path,
) -> Result<(Superblock, Inherited, Vec<Event>)> {
    let total = size / BLOCK;
    if total < MARGIN * 2 {
        return Err(invalid(format!("{} is not a Cairn pool: it has only {size} bytes", path.display())));
    }
    let mut valid: Vec<Superblock> = Vec::new();
    let mut faults: Vec<(u32, Error)> = Vec::new();
    for slot in 0..4 {
        // The tail copies are found through a head copy, or where the file ends.
        let total = valid.first().map_or(total, |sb| sb.total_blocks);
        let copy = match read_blocks(reactor, slot_block(slot, total), 1).await {
            Ok(bytes) => Superblock::decode(&bytes, slot),
            Err(e) => Err(e),
        };
        match copy {
            Ok(superblock) => valid.push(superblock),
            Err(error) => faults.push((slot, error)),
        }
    }
    // A newer program may have made a checkpoint in its own format: what this one can read is older.
    if let Some((_, error)) = faults.iter().find(|(_, e)| e.kind() == ErrorKind::Unsupported) {
        return Err(unsupported(format!("{}: {error}", path.display())));
    }
    // Damage is told from a write that was cut short by the other copy. What cannot be read may be the newest there is, unless its other
    // copy shows that it was not complete: the device has to be mended first, or acknowledged writes would be lost without a word.
    let unreadable = |slot: u32| faults.iter().any(|(s, e)| *s == slot && e.kind() == ErrorKind::Io);
    let tells_nothing = |slot: u32| faults.iter().any(|(s, e)| *s == slot && e.kind() != ErrorKind::Invalid);
    if [(0, 2), (2, 0), (1, 3), (3, 1)].iter().any(|&(slot, other)| unreadable(slot) && tells_nothing(other)) {
        let first = faults.iter().find(|(_, e)| e.kind() == ErrorKind::Io);
        let reason = first.map(|(_, e)| e.to_string()).unwrap_or_default();
        let what = "a copy of the superblock cannot be read, and the other one is no help";
        return Err(Error::new(
            ErrorKind::Io,
            format!("{}: {what} ({reason}): mend the device, then try again", path.display()),
        ));
    }
    let Some(best) = valid.iter().max_by_key(|sb| sb.checkpoint).cloned() else {
        let reason = faults.first().map(|(_, e)| e.to_string()).unwrap_or_default();
        let kind = if faults.iter().any(|(_, e)| e.kind() == ErrorKind::Corrupt) {
            ErrorKind::Corrupt
        } else {
            ErrorKind::Invalid
        };
        return Err(Error::new(
            kind,
            format!("{}: no usable superblock in any of its four places ({reason})", path.display()),
        ));
    };
    if valid.iter().any(|sb| sb.uuid != best.uuid) {
        return Err(corrupt(format!(
            "{} holds superblocks of two different pools: restore from a backup",
            path.display()
        )));
    }
    if best.total_blocks > total {
        return Err(corrupt(format!(
            "{} is truncated: the pool has {} bytes, the file {size}",
            path.display(),
            best.total_blocks * BLOCK
        )));
    }
    // The first checkpoint leaves the other parity's slots empty.
    let expected = |slot: &u32| slots_of(best.checkpoint).contains(slot) || best.checkpoint > 1;
    let told = faults.iter().filter(|(slot, _)| expected(slot)).map(|(slot, error)| Event::CopyUsed {
        what: format!("superblock copy {slot} is unusable ({error}); another one was used"),
    });
    let events = told.collect();
    let mut inherited = Inherited { checkpoint: best.checkpoint, unusable: [false; 4] };
    for (slot, _) in &faults {
        inherited.unusable[*slot as usize] = true;
    }
    // A crash between the two copies of a checkpoint leaves an older one in the place of the second.
    for copy in
        valid.iter().filter(|sb| slots_of(best.checkpoint).contains(&sb.slot) && sb.checkpoint != best.checkpoint)
    {
        inherited.unusable[copy.slot as usize] = true;
    }
    Ok((best, inherited, events))
}

impl Core {
    /// Makes a new pool. What an earlier pool left in the superblocks' places goes first, or it could be taken for the newer one.
    pub(crate) async fn first_checkpoint(self: &Rc<Self>) -> Result<()> {
        let total = self.superblock.borrow().total_blocks;
        for slot in 0..4 {
            self.write_metadata(slot_block(slot, total), IoBuf::zeroed(BLOCK_SIZE), "the superblock").await?;
        }
        self.sync().await?;
        self.run_checkpoint().await
    }

    /// From the superblock to the state at the last commit; says whether the journal held any group, complete or not. With `rebuild`, a
    /// damaged directory of the free map is no obstacle: what it led to follows from the versions.
    pub(crate) async fn recover(self: &Rc<Self>, size: u64, rebuild: bool) -> Result<bool> {
        debug_assert!(size >= self.superblock.borrow().total_blocks * BLOCK);
        let mut damaged = Vec::new();
        let reach = self.read_map(&mut damaged, rebuild).await?;
        self.set_reach(reach);
        self.read_table().await?;
        if !damaged.is_empty() {
            self.rebuild_map(&damaged).await;
        }
        let journal = Journal::read(self).await?;
        {
            let mut commit = self.commit.borrow_mut();
            for group in &journal.groups {
                let _at = commit.ring.take(group.header.blocks());
                commit.committed = group.header.seq;
                commit.open = group.header.seq + 1;
            }
            commit.wanted = commit.committed;
        }
        let replayed = journal.replay(self).await?;
        self.replayed.set(replayed);
        self.state.borrow_mut().space.committed(self.commit.borrow().committed);
        // An empty last group is closed as it is, so that opening again and again does not fill the ring.
        Ok(journal.dropped || journal.groups.last().is_some_and(|g| g.header.records > 0))
    }

    fn set_reach(&self, reach: Reach) {
        let sb = self.superblock.borrow();
        self.state.borrow_mut().space = Space::new(sb.total_blocks, sb.data_start, sb.data_end, reach, self.thin);
    }

    /// What damaged pieces of the free map held follows from the versions. Where those are damaged too, the pieces stay all in use:
    /// that wastes space, but overwrites nothing.
    async fn rebuild_map(self: &Rc<Self>, damaged: &[u64]) {
        let shown = shown(damaged);
        match check::reachable(self).await {
            Ok(seen) => {
                let mut reach = self.state.borrow().space.reach.clone();
                for &piece in damaged {
                    reach.replace(piece, &seen);
                }
                self.set_reach(reach);
                let what = format!("{shown} of the free map were damaged; they were rebuilt from the versions");
                self.state.borrow_mut().event(Event::CopyUsed { what });
            }
            Err(error) => self.corruption(&format!(
                "{shown} of the free map are damaged and cannot be rebuilt ({error}): their blocks count as in use"
            )),
        }
    }

    /// Reads the free map. A damaged piece counts as all in use for now, and is named in `damaged`; so are, with `rebuild`, the pieces that
    /// a damaged directory leads to.
    async fn read_map(self: &Rc<Self>, damaged: &mut Vec<u64>, rebuild: bool) -> Result<Reach> {
        let superblock = self.superblock.borrow().clone();
        let mut reach = Reach::new(superblock.total_blocks);
        let levels = self.map.borrow().levels.len();
        if let Some(top) = self.map.borrow_mut().levels.last_mut() {
            if top.len() != superblock.map_top.len() {
                return Err(corrupt("the superblock lists a free map of another size"));
            }
            top.clone_from(&superblock.map_top);
        }
        for level in (0..levels).rev() {
            let count = self.map.borrow().levels[level].len();
            let mut reads = VecDeque::new();
            let mut next = 0;
            while next < count || !reads.is_empty() {
                if next < count && reads.len() < 64 {
                    let entry = self.map.borrow().levels[level][next];
                    if entry.place != 0 {
                        let block = self.map.borrow().block(level, next, entry.place);
                        let op = Op::Read { offset: block * BLOCK, buf: IoBuf::with_len(BLOCK_SIZE) };
                        reads.push_back((next, entry.crc, block, self.reactor.submit(op)));
                    }
                    next += 1;
                    continue;
                }
                let Some((index, crc, block, read)) = reads.pop_front() else { break };
                let done = read.await;
                let Op::Read { buf, .. } = done.op else { continue };
                let sound = done.result.is_ok_and(|n| n == BLOCK_SIZE) && crc32fast::hash(&buf) == crc;
                let sound = sound && (level == 0 || self.map.borrow_mut().load_entries(level - 1, index, &buf));
                match (level, sound) {
                    (0, true) => reach.load(index as u64, &buf),
                    (_, true) => {}
                    (0, false) => {
                        self.corruption(&format!("piece {index} of the free map (block {block}) is damaged"));
                        damaged.push(index as u64);
                    }
                    (_, false) if rebuild => {
                        self.corruption(&format!("the directory of the free map is damaged (block {block})"));
                        damaged.extend(self.pieces_below(level, index));
                    }
                    (_, false) => {
                        return Err(corrupt(format!(
                            "the directory of the free map is damaged (block {block}): `cairn pool check --repair` rebuilds it \
                             from the versions"
                        )));
                    }
                }
            }
        }
        for &piece in damaged.iter() {
            self.fill_piece(&mut reach, piece);
        }
        Ok(reach)
    }

    /// Pieces of the bitmap that a piece of `level` leads to.
    fn pieces_below(&self, level: usize, index: usize) -> std::ops::Range<u64> {
        let each = (ENTRIES as u64).pow(level as u32);
        let all = self.map.borrow().levels.first().map_or(0, |pieces| pieces.len() as u64);
        index as u64 * each..((index as u64 + 1) * each).min(all)
    }

    /// All blocks of a piece count as in use.
    fn fill_piece(&self, reach: &mut Reach, piece: u64) {
        let sb = self.superblock.borrow();
        let start = (piece * PIECE_BLOCKS).max(sb.data_start);
        let end = ((piece + 1) * PIECE_BLOCKS).min(sb.data_end);
        if start < end {
            let _count = reach.add(Run { start, len: end - start });
        }
    }

    /// Reads the version table.
    async fn read_table(self: &Rc<Self>) -> Result<()> {
        let superblock = self.superblock.borrow().clone();
        let pages = superblock.table_pages as usize;
        if superblock.table_pages > 1 << 24 {
            return Err(corrupt("the superblock names more table pages than there can be"));
        }
        self.table.borrow_mut().resize(pages);
        let top = self.table.borrow().levels.len();
        if top == 0 {
            return Ok(());
        }
        self.table.borrow_mut().levels[top - 1][0] = superblock.table_root;
        for level in (0..top).rev() {
            let count = self.table.borrow().levels[level].len();
            for first in (0..count).step_by(64) {
                let batch: Vec<_> = (first..count.min(first + 64))
                    .map(|i| {
                        let pointer = self.table.borrow().levels[level][i];
                        let block = match pointer.place() {
                            Place::Data(b) | Place::Node(b) => b.0,
                            _ => 0,
                        };
                        let op = Op::Read { offset: block * BLOCK, buf: IoBuf::with_len(BLOCK_SIZE) };
                        (i, pointer, block, self.reactor.submit(op))
                    })
                    .collect();
                for (index, pointer, block, read) in batch {
                    let done = read.await;
                    let n = done
                        .result
                        .map_err(|e| Error::io(format!("cannot read the version table at block {block}"), e))?;
                    let Op::Read { buf, .. } = done.op else { continue };
                    if n != BLOCK_SIZE || crc32fast::hash(&buf) != pointer.crc() {
                        return Err(corrupt(format!(
                            "the version table is damaged at block {block} (level {level}, entry {index}): restore from a backup"
                        )));
                    }
                    self.take_table_block(level, index, &buf)?;
                }
            }
        }
        Ok(())
    }

    fn take_table_block(&self, level: usize, index: usize, bytes: &[u8]) -> Result<()> {
        if level == 0 {
            let mut state = self.state.borrow_mut();
            let page = decode_page(bytes, index as u64)?;
            let twice = |id| corrupt(format!("entry {id} stands twice in the version table"));
            for version in page.versions {
                if state.lineage.get(version.id).is_some() || state.lineage.sheet_at(version.id).is_some() {
                    return Err(twice(version.id));
                }
                state.lineage.load(version, index as u32);
            }
            for (entry, sheet) in page.sheets {
                let entries = &state.lineage;
                if entries.get(entry).is_some()
                    || entries.sheet_at(entry).is_some()
                    || entries.sheet(&sheet.owner).is_some()
                {
                    return Err(twice(entry));
                }
                state.lineage.load_sheet(entry, sheet, index as u32);
            }
            return Ok(());
        }
        let mut table = self.table.borrow_mut();
        let below = &mut table.levels[level - 1];
        for (i, chunk) in bytes.as_chunks::<16>().0.iter().enumerate() {
            if let Some(slot) = below.get_mut(index * 256 + i) {
                *slot = Pointer::from_bytes(*chunk);
            }
        }
        Ok(())
    }

    /// Starts what a pool does by itself. A recovered journal is closed with an empty group before anything can be written, so that its
    /// last group is never again the one whose data decides whether it counts.
    pub(crate) async fn start(self: &Rc<Self>, close_journal: bool) -> Result<()> {
        let core = Rc::downgrade(self);
        self.reactor.at_turn_end(Some(Rc::new(move || {
            if let Some(core) = core.upgrade() {
                core.turn_ends();
            }
        })));
        self.journal_to_close.set(close_journal);
        if !self.opened_read_only.get() {
            self.start_writing().await?;
        }
        self.apply_limits();
        self.reactor.spawn(self.qos.clone().run()).detach();
        self.reactor.spawn(self.clone().tick_task()).detach();
        Ok(())
    }

    /// Writes what a crash left of the newest checkpoint's two copies a second time: with one, the pool lives on luck.
    async fn complete_superblock(&self) -> Result<()> {
        let mut inherited = self.inherited.get();
        let newest = self.superblock.borrow().checkpoint;
        if inherited.checkpoint != newest {
            return Ok(());
        }
        for slot in slots_of(newest) {
            if inherited.unusable[slot as usize] {
                self.rewrite_superblock(slot).await?;
                inherited.unusable[slot as usize] = false;
            }
        }
        self.inherited.set(inherited);
        Ok(())
    }

    /// A slot that was of no use, and in which a checkpoint that never was complete may stand, is made empty: read after all at a later
    /// opening, it would be the newest, and what it refers to is about to be overwritten.
    async fn retire_unusable_slots(&self) -> Result<()> {
        let inherited = self.inherited.get();
        let (newest, total) = (self.superblock.borrow().checkpoint, self.superblock.borrow().total_blocks);
        if inherited.checkpoint != newest {
            return Ok(());
        }
        for slot in slots_of(newest + 1).into_iter().filter(|slot| inherited.unusable[*slot as usize]) {
            self.write_metadata(slot_block(slot, total), IoBuf::zeroed(BLOCK_SIZE), "the superblock").await?;
        }
        Ok(())
    }

    /// Starts everything that writes.
    pub(crate) async fn start_writing(self: &Rc<Self>) -> Result<()> {
        self.retire_unusable_slots().await?;
        self.complete_superblock().await?;
        // After the end of a process, what was read may be in the device's cache only. Nothing that builds on it may outlive it.
        self.sync().await?;
        if self.journal_to_close.replace(false) {
            self.close_journal().await?;
        }
        // A ring that is rather full is emptied before anything else can write a record: the state is frozen without a group.
        if self.ring_is_half_full() {
            self.want_checkpoint();
        }
        self.reactor.spawn(self.clone().checkpoint_task()).detach();
        self.reactor.spawn(self.clone().commit_task()).detach();
        self.reactor.spawn(self.clone().deletion_task()).detach();
        Ok(())
    }
}

/// `pieces 1 to 512`: neighbours are told as a range, and of many the first few.
fn shown(pieces: &[u64]) -> String {
    let runs: Vec<String> = pieces
        .chunk_by(|a, b| a + 1 == *b)
        .map(|run| match run {
            [first, .., last] => format!("{first} to {last}"),
            _ => run.first().map(u64::to_string).unwrap_or_default(),
        })
        .collect();
    let more = if runs.len() > 10 { format!(" and {} more", runs.len() - 10) } else { String::new() };
    format!("pieces {}{more}", runs.iter().take(10).cloned().collect::<Vec<_>>().join(", "))
}
