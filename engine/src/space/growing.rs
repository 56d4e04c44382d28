//! Which segments have their room in the file: growing, and giving back.

use super::{SEGMENT, Space, bitmap::Run};

impl Space {
    pub(super) fn next_unbacked(&self) -> Option<u64> {
        if !self.thin {
            return None;
        }
        let first = self.data_start / SEGMENT;
        let last = (self.data_end - 1) / SEGMENT;
        // Mostly there is none on a pool that has grown to its size; that is not to be looked up in every segment.
        if self.backed_count + (self.leaving.len() + self.refused.len()) as u64 > last - first {
            return None;
        }
        let from = self.cursor / SEGMENT;
        (from..=last).chain(first..from).find(|&s| self.is_unbacked(s))
    }

    /// Whether room may be asked for.
    pub(super) fn is_unbacked(&self, segment: u64) -> bool {
        !(self.backed[segment as usize] || self.leaving.contains(&segment) || self.refused.contains(&segment))
    }

    /// Up to `limit` neighbouring segments without room, nearest ahead of the cursor.
    pub(crate) fn segments_to_back(&self, limit: u64) -> Option<Run> {
        let first = self.next_unbacked()?;
        let last = (self.data_end - 1) / SEGMENT;
        let len = (first..=last).take_while(|&s| self.is_unbacked(s)).take(limit as usize).count() as u64;
        Some(Run { start: first, len })
    }

    /// Room was set aside for these segments (or the file system cannot say, and writes find out).
    pub(crate) fn set_backed(&mut self, segments: Run) {
        for segment in segments.start..segments.end() {
            if !std::mem::replace(&mut self.backed[segment as usize], true) {
                self.backed_count += 1;
                self.backed_free += self.free_in(segment);
            }
        }
        self.refusing = false;
        self.without_long = None;
    }

    /// The file system has no room for this segment: it is not asked for again until something was given back or `retry_backing` is
    /// called. Others may have their room already, from before the pool was opened.
    pub(crate) fn refuse_backing(&mut self, segment: u64) {
        let _new = self.refused.insert(segment);
        self.refusing = true;
    }

    /// Growing may be tried again.
    pub(crate) fn retry_backing(&mut self) {
        self.refused.clear();
    }

    /// Whether growth should begin before it is needed: little is left ahead that is backed and free.
    pub(crate) fn wants_backing(&self, ahead: u64) -> bool {
        self.backed_free < ahead + self.kept && self.next_unbacked().is_some()
    }

    /// Backed segments, other than the cursor's, of which every block is free, at most `limit`. They are taken out of use until
    /// [`Space::gave_back`].
    pub(crate) fn take_empty_segments(&mut self, limit: usize) -> Vec<u64> {
        // What was acknowledged counts on room that the file has.
        if !self.thin || self.kept > 0 {
            return Vec::new();
        }
        let first = self.data_start.div_ceil(SEGMENT);
        let last = self.data_end / SEGMENT;
        let near = self.cursor / SEGMENT..self.cursor / SEGMENT + 16;
        let found: Vec<u64> = (first..last)
            .filter(|s| self.backed[*s as usize] && !near.contains(s))
            .filter(|s| self.taken.all_clear(Run { start: s * SEGMENT, len: SEGMENT }))
            .take(limit)
            .collect();
        for &s in &found {
            self.backed[s as usize] = false;
            self.backed_count -= 1;
            self.backed_free -= self.taken.set(Run { start: s * SEGMENT, len: SEGMENT });
        }
        self.leaving.extend(&found);
        found
    }

    /// The room of a segment was given back; its blocks may be used again once it is backed anew.
    pub(crate) fn gave_back(&mut self, segment: u64) {
        let all = Run { start: segment * SEGMENT, len: SEGMENT };
        let _blocks = self.taken.clear(all);
        let _left = self.leaving.remove(&segment);
        self.refused.clear();
        self.refusing = false;
        // A repair may have claimed some of it meanwhile.
        for block in (all.start..all.end()).filter(|block| self.reach.contains(*block)) {
            let _taken = self.taken.set(Run { start: block, len: 1 });
            self.backed[segment as usize] = true;
        }
        if self.backed[segment as usize] {
            self.count_backed();
        }
    }
}
