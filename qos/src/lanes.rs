//! What waits at a volume: reads in their order and writes in theirs, so that a limit on one of them does not hold back the other.

use std::collections::VecDeque;

use crate::{Kind, Nanos, Request};

#[derive(Clone, Copy)]
pub(crate) struct Waiting {
    pub(crate) number: u64,
    pub(crate) request: Request,
    pub(crate) since: Nanos,
}

#[derive(Default)]
pub(crate) struct Lanes {
    lanes: [VecDeque<Waiting>; 2],
}

fn lane_of(request: &Request) -> usize {
    usize::from(request.kind != Kind::Read)
}

impl Lanes {
    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.iter().all(VecDeque::is_empty)
    }

    pub(crate) fn len(&self) -> usize {
        self.lanes.iter().map(VecDeque::len).sum()
    }

    /// Puts a request behind those of its kind; says whether it is the first of them.
    pub(crate) fn push(&mut self, waiting: Waiting) -> bool {
        let Some(lane) = self.lanes.get_mut(lane_of(&waiting.request)) else { return false };
        lane.push_back(waiting);
        lane.len() == 1
    }

    /// The first read and the first write, the one that came first before the other.
    pub(crate) fn firsts(&self) -> [Option<Waiting>; 2] {
        let [reads, writes] = self.lanes.each_ref().map(|lane| lane.front().copied());
        match (reads, writes) {
            (Some(read), Some(write)) if write.number < read.number => [Some(write), Some(read)],
            (None, write) => [write, None],
            both => [both.0, both.1],
        }
    }

    /// Takes the first one of its kind.
    pub(crate) fn take(&mut self, first: &Waiting) {
        if let Some(lane) = self.lanes.get_mut(lane_of(&first.request)) {
            let _gone = lane.pop_front();
        }
    }

    /// Takes a request out, wherever it is; says whether it was the first of its kind. None: it does not wait.
    pub(crate) fn cancel(&mut self, number: u64) -> Option<bool> {
        self.lanes.iter_mut().find_map(|lane| {
            let at = lane.binary_search_by_key(&number, |waiting| waiting.number).ok()?;
            let _gone = lane.remove(at);
            Some(at == 0)
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.lanes.iter().flatten()
    }
}
