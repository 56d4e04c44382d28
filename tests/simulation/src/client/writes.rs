//! What a client writes: one piece or many at once, zeros, discards; what overlapped or failed is read back.

use super::*;

impl Client {
    pub(super) async fn write_one(&self) -> Go {
        let volume = self.pick();
        let (size, _) = self.live_of(&volume);
        let (first, count) = self.range(size);
        let fua = self.below(12) == 0;
        self.write(volume, vec![(first, count, self.tag())], fua).await
    }

    pub(super) async fn burst(&self) -> Go {
        let volume = self.pick();
        let (size, _) = self.live_of(&volume);
        let near = self.place(size);
        let pieces = (0..2 + self.below(7)).map(|_| {
            let first = (near + self.below(64)).min(size / SECTOR - 1);
            let (first, count) = match self.below(3) {
                0 => (first / PER_BLOCK * PER_BLOCK, PER_BLOCK * (1 + self.below(3))),
                _ => (first, 1 + self.below(12)),
            };
            let tag = if self.below(8) == 0 { 0 } else { self.tag() };
            (first, count.min(size / SECTOR - first), tag)
        });
        let pieces = pieces.collect();
        self.write(volume, pieces, false).await
    }

    /// A sector in each of many leaves: trees with many leaves, for long walks.
    pub(super) async fn spray(&self) -> Go {
        let volume = self.pick();
        let (size, _) = self.live_of(&volume);
        let leaves = (size / MIB).min(40);
        let first = self.below(size / MIB - leaves + 1);
        let within = self.below(2048);
        let place = |leaf: u64| ((first + leaf) * 2048 + within).min(size / SECTOR - 1);
        let pieces = (0..leaves).map(|leaf| (place(leaf), 1, self.tag())).collect();
        self.write(volume, pieces, false).await
    }

    /// Writes, all in flight at once, with reads among them.
    async fn write(&self, volume: String, pieces: Vec<(u64, u64, u64)>, fua: bool) -> Go {
        let before = excuses(&self.shared.disk);
        let sync = self.live_of(&volume).1;
        let open = self.open(&volume, None);
        let step = self.begin(Effect::Write { volume: volume.clone(), pieces: pieces.clone() });
        let reactor = self.pool().reactor();
        let tasks: Vec<_> = pieces
            .iter()
            .map(|&(first, count, tag)| {
                let open = open.clone();
                reactor.spawn(async move {
                    if tag == 0 {
                        open.write_zeroes(first * SECTOR, count * SECTOR, fua).await
                    } else {
                        open.write(first * SECTOR, buffer(first, count, tag), fua).await
                    }
                })
            })
            .collect();
        if pieces.len() > 1 {
            self.read_during(&open, &volume, &pieces).await;
            if self.below(6) == 0 {
                // The client goes away while its requests are in flight.
                self.pool().reactor().sleep(Duration::from_micros(self.below(300))).await;
                drop(open);
                for task in tasks {
                    let _answer = task.cancel().await;
                }
                return self.written(step, &volume, &pieces, None, before, false).await;
            }
        }
        let mut failure = None;
        for task in tasks {
            if let Err(e) = task.await {
                failure = Some(e);
            }
        }
        drop(open);
        self.written(
            step,
            &volume,
            &pieces,
            failure,
            before,
            sync == SyncMode::Always || fua && sync == SyncMode::Flush,
        )
        .await
    }

    /// The end of writes: what overlapped or failed is read back, and must be old or new.
    async fn written(
        &self,
        step: usize,
        volume: &str,
        pieces: &[(u64, u64, u64)],
        failure: Option<Error>,
        excuses_before: u64,
        durable: bool,
    ) -> Go {
        if let Some(e) = &failure {
            if self.stopped() {
                self.expect_cause(e);
                return Go::Stop;
            }
            assert!(self.is_full(e) || self.excused(e, excuses_before), "{volume}: {e}");
        }
        // With one piece there is one order; with several, all count only as answered together.
        let settled = pieces.len() == 1 && failure.is_none();
        self.history.borrow_mut().steps[step].unsettled = !settled;
        self.end(step, durable && settled);
        if settled { Go::On } else { self.settle(volume, pieces).await }
    }

    /// Reads back what writes may have left in one of several ways.
    async fn settle(&self, volume: &str, pieces: &[(u64, u64, u64)]) -> Go {
        let open = self.open_as_it_is(volume);
        let old = self.history.borrow().before_last(volume);
        let mut settled = Vec::new();
        for &(first, count, _) in pieces {
            let Some(data) = self.read_surely(&open, first, count).await else { return Go::Stop };
            for (sector, bytes) in (first..).zip(data.chunks_exact(SECTOR as usize)) {
                let tag = tag_of(sector, bytes).unwrap_or_else(|e| panic!("{volume}: {e}"));
                let wrote = pieces.iter().any(|(f, n, t)| (*f..f + n).contains(&sector) && *t == tag);
                assert!(
                    wrote || old.get(sector) == tag,
                    "{volume}: sector {sector} holds {tag:#x}, neither old nor new"
                );
                settled.push((sector, tag));
            }
        }
        let step = self.begin(Effect::Settled { volume: volume.to_owned(), sectors: settled });
        self.end(step, false);
        Go::On
    }

    /// Reads with all faults out of the way.
    async fn read_surely(&self, open: &AsItIs, first: u64, count: u64) -> Option<Vec<u8>> {
        for _ in 0..200 {
            match open.read(first, count).await {
                Ok(data) => return Some(data),
                Err(_) => self.shared.disk.heal(),
            }
        }
        None
    }

    async fn read_during(&self, open: &LocalVolume, volume: &str, pieces: &[(u64, u64, u64)]) {
        let (first, count, _) = pieces[self.below(pieces.len() as u64) as usize];
        let before = excuses(&self.shared.disk);
        match open.read(first * SECTOR, (count * SECTOR) as usize).await {
            Ok(data) => {
                let old = self.history.borrow().before_last(volume);
                for (sector, bytes) in (first..).zip(data.chunks_exact(SECTOR as usize)) {
                    let tag = tag_of(sector, bytes).unwrap_or_else(|e| panic!("{volume}: {e}"));
                    let wrote = pieces.iter().any(|(f, n, t)| (*f..f + n).contains(&sector) && *t == tag);
                    assert!(wrote || old.get(sector) == tag, "{volume}: sector {sector} reads {tag:#x} during writes");
                }
            }
            Err(e) => assert!(self.excused(&e, before) || self.is_unfilled(volume, &e), "{volume}: {e}"),
        }
    }

    pub(super) async fn zeroes(&self) -> Go {
        let volume = self.pick();
        let (size, _) = self.live_of(&volume);
        let (first, count) = self.range(size);
        if self.below(2) == 0 {
            self.write(volume, vec![(first, count, 0)], false).await
        } else {
            self.discard(volume, first, count).await
        }
    }

    pub(super) async fn discard_much(&self) -> Go {
        let volume = self.pick();
        let (size, _) = self.live_of(&volume);
        let sectors = size / SECTOR;
        let first = [0, 0, 2048, self.place(size)][self.below(4) as usize].min(sectors - 1);
        self.discard(volume, first, sectors - first).await
    }

    async fn discard(&self, volume: String, first: u64, count: u64) -> Go {
        let before = excuses(&self.shared.disk);
        let (size, sync) = self.live_of(&volume);
        let start = first.next_multiple_of(PER_BLOCK);
        let end = first + count;
        let end = if end == size / SECTOR { end } else { end / PER_BLOCK * PER_BLOCK };
        let piece = (start, end.saturating_sub(start), 0);
        let open = self.open(&volume, None);
        let step = self.begin(Effect::Write { volume: volume.clone(), pieces: vec![piece] });
        let result = open.discard(first * SECTOR, count * SECTOR, false).await;
        drop(open);
        // A huge range is read back only as far as there can be anything in it.
        let known = self.history.borrow().known_before_last(&volume, piece.0..piece.0 + piece.1);
        let pieces = if result.is_err() { known } else { vec![piece] };
        self.written(step, &volume, &pieces, result.err(), before, sync == SyncMode::Always).await
    }

    pub(super) async fn flush_series(&self) -> Go {
        let volume = self.pick();
        let (size, _) = self.live_of(&volume);
        for _ in 0..self.below(1200) {
            let first = self.below(size / SECTOR);
            if self.write(volume.clone(), vec![(first % 512, 1, self.tag())], true).await == Go::Stop {
                return Go::Stop;
            }
        }
        Go::On
    }

    /// Small writes, each with a commit of its own: so many groups in the journal.
    pub(crate) async fn write_flushed(&self, groups: u64) {
        for _ in 0..groups {
            let volume = self.pick();
            let first = self.below(1000);
            let _go = self.write(volume, vec![(first, 8, self.tag())], true).await;
            let _go = self.flush().await;
        }
    }
}
