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

pub(crate) fn lane_of(request: &Request) -> u32 {
    u32::from(request.kind != Kind::Read)
}

impl Lanes {
    pub(crate) fn len(&self) -> usize {
        self.lanes.iter().map(VecDeque::len).sum()
    }

    /// Puts a request behind those of its kind; says whether it is the first of them.
    pub(crate) fn push(&mut self, waiting: Waiting) -> bool {
        let Some(lane) = self.lanes.get_mut(lane_of(&waiting.request) as usize) else { return false };
        lane.push_back(waiting);
        lane.len() == 1
    }

    pub(crate) fn first(&self, lane: u32) -> Option<&Waiting> {
        self.lanes.get(lane as usize)?.front()
    }

    pub(crate) fn take_first(&mut self, lane: u32) -> Option<Waiting> {
        self.lanes.get_mut(lane as usize)?.pop_front()
    }

    /// Takes a request out, wherever it is; its lane, and whether it was the first there. None: it does not wait.
    pub(crate) fn cancel(&mut self, number: u64) -> Option<(u32, bool)> {
        (0..).zip(&mut self.lanes).find_map(|(number_of_lane, lane)| {
            let at = lane.binary_search_by_key(&number, |waiting| waiting.number).ok()?;
            let _gone = lane.remove(at);
            Some((number_of_lane, at == 0))
        })
    }

    /// Requests of one kind.
    pub(crate) fn of(&self, lane: u32) -> impl Iterator<Item = &Waiting> {
        self.lanes.get(lane as usize).into_iter().flatten()
    }
}
