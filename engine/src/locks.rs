//! Locks of single blocks, for writes of parts of them. Whoever waits gets the lock in turn, and nobody else is woken for it.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use rustc_hash::FxHashMap;

use crate::{
    sabotage::{Sabotage, broken},
    units::VolumeId,
};

type Key = (VolumeId, u64);

/// The blocks that are locked, and who waits for each.
#[derive(Default)]
pub(crate) struct BlockLocks(RefCell<FxHashMap<Key, VecDeque<Rc<Place>>>>);

/// A place in a line.
#[derive(Default)]
struct Place {
    granted: Cell<bool>,
    gone: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl BlockLocks {
    /// Waits until nobody else has a block of a volume.
    pub(crate) async fn lock(&self, volume: VolumeId, block: u64) -> BlockLock<'_> {
        let key = (volume, block);
        let place = {
            let mut locks = self.0.borrow_mut();
            match locks.get_mut(&key).filter(|_| !broken(Sabotage::StaleMerge)) {
                Some(line) => {
                    let place = Rc::new(Place::default());
                    line.push_back(place.clone());
                    place
                }
                None => {
                    let _free = locks.insert(key, VecDeque::new());
                    return BlockLock { locks: self, key };
                }
            }
        };
        Waiting { locks: self, key, place, came: false }.await
    }

    /// Gives a lock to the next who still wants it.
    fn pass_on(&self, key: Key) {
        let mut locks = self.0.borrow_mut();
        while let Some(next) = locks.get_mut(&key).and_then(VecDeque::pop_front) {
            if !next.gone.get() {
                next.granted.set(true);
                if let Some(waker) = next.waker.take() {
                    waker.wake();
                }
                return;
            }
        }
        let _none = locks.remove(&key);
    }
}

/// Gives up a block lock when it is dropped.
pub(crate) struct BlockLock<'a> {
    locks: &'a BlockLocks,
    key: Key,
}

impl Drop for BlockLock<'_> {
    fn drop(&mut self) {
        self.locks.pass_on(self.key);
    }
}

struct Waiting<'a> {
    locks: &'a BlockLocks,
    key: Key,
    place: Rc<Place>,
    came: bool,
}

impl<'a> Future for Waiting<'a> {
    type Output = BlockLock<'a>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<BlockLock<'a>> {
        if !self.place.granted.get() {
            self.place.waker.replace(Some(cx.waker().clone()));
            return Poll::Pending;
        }
        self.came = true;
        Poll::Ready(BlockLock { locks: self.locks, key: self.key })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.place.gone.set(true);
        if self.place.granted.get() && !self.came {
            self.locks.pass_on(self.key);
        }
    }
}
