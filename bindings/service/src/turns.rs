//! Turns at what only so many can do at once, one after the other for each of many: whoever asks for much waits for their own, not others for them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Who has a turn, and who waits. Clones are the same.
///
/// Invariants:
/// - While a turn is free, nobody waits.
/// - Each that waits has one queue; the one whose queue was served goes behind all others.
pub(crate) struct Turns<K>(Arc<Mutex<Line<K>>>);

impl<K> Clone for Turns<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Line<K> {
    free: usize,
    waiting: VecDeque<Queue<K>>,
}

struct Queue<K> {
    of: K,
    wakers: VecDeque<oneshot::Sender<Turn<K>>>,
}

impl<K> Line<K> {
    /// Whose turn is next. Those that went away are passed over.
    fn next(&mut self) -> Option<oneshot::Sender<Turn<K>>> {
        while let Some(mut queue) = self.waiting.pop_front() {
            queue.wakers.retain(|waker| !waker.is_closed());
            let next = queue.wakers.pop_front();
            if !queue.wakers.is_empty() {
                self.waiting.push_back(queue);
            }
            if next.is_some() {
                return next;
            }
        }
        None
    }
}

impl<K> Turns<K> {
    /// `places`: how many turns there are at once.
    pub(crate) fn new(places: usize) -> Self {
        Self(Arc::new(Mutex::new(Line { free: places, waiting: VecDeque::new() })))
    }

    fn line(&self) -> MutexGuard<'_, Line<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> Turn<K> {
        Turn { turns: self.clone() }
    }
}

impl<K: PartialEq + Clone> Turns<K> {
    /// Waits for a turn of somebody's.
    pub(crate) async fn take(&self, of: &K) -> Turn<K> {
        loop {
            let told = {
                let mut line = self.line();
                if line.free > 0 {
                    line.free -= 1;
                    drop(line);
                    return self.turn();
                }
                let (waker, told) = oneshot::channel();
                match line.waiting.iter_mut().find(|queue| queue.of == *of) {
                    Some(queue) => queue.wakers.push_back(waker),
                    None => line.waiting.push_back(Queue { of: of.clone(), wakers: VecDeque::from([waker]) }),
                }
                told
            };
            // Nobody drops the other end of one that waits; if it were so, it would ask again.
            if let Ok(turn) = told.await {
                return turn;
            }
        }
    }
}

/// A turn; it passes on when this is dropped.
#[must_use]
pub(crate) struct Turn<K> {
    turns: Turns<K>,
}

impl<K> Drop for Turn<K> {
    fn drop(&mut self) {
        let next = {
            let mut line = self.turns.line();
            let next = line.next();
            if next.is_none() {
                line.free += 1;
            }
            next
        };
        // Whoever went away at this moment passes it on in turn.
        drop(next.map(|waker| waker.send(self.turns.turn())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::poll_fn, sync::mpsc, task::Poll};
    use tokio::task::JoinHandle;

    /// One that waits for a turn, says so when it has it, and lets it go.
    fn waits(turns: &Turns<&'static str>, of: &'static str, tell: &mpsc::Sender<&'static str>) -> JoinHandle<()> {
        let (turns, tell) = (turns.clone(), tell.clone());
        tokio::spawn(async move {
            let _turn = turns.take(&of).await;
            tell.send(of).unwrap();
        })
    }

    async fn waiting(turns: &Turns<&'static str>, count: usize) {
        while turns.line().waiting.iter().map(|queue| queue.wakers.len()).sum::<usize>() < count {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn whoever_waits_many_times_does_not_come_before_others() {
        let (turns, (tell, told)) = (Turns::new(2), mpsc::channel());
        let held = [turns.take(&"a").await, turns.take(&"a").await];
        let mut all: Vec<_> = (0..5).map(|_| waits(&turns, "a", &tell)).collect();
        waiting(&turns, 5).await;
        all.extend([waits(&turns, "b", &tell), waits(&turns, "b", &tell)]);
        waiting(&turns, 7).await;
        all.push(waits(&turns, "c", &tell));
        waiting(&turns, 8).await;
        let [one, other] = held;
        drop(one);
        for one in all {
            one.await.unwrap();
        }
        assert_eq!(told.try_iter().collect::<Vec<_>>(), ["a", "b", "c", "a", "b", "a", "a", "a"]);
        drop(other);
        assert!(turns.line().waiting.is_empty() && turns.line().free == 2);
    }

    #[tokio::test]
    async fn those_that_go_away_take_no_turn_along() {
        let (turns, (tell, told)) = (Turns::new(1), mpsc::channel());
        let held = turns.take(&"a").await;
        let gone: Vec<_> = ["a", "b", "b"].into_iter().map(|of| waits(&turns, of, &tell)).collect();
        waiting(&turns, 3).await;
        let stays = waits(&turns, "b", &tell);
        waiting(&turns, 4).await;
        for one in gone {
            one.abort();
            assert!(one.await.unwrap_err().is_cancelled());
        }
        drop(held);
        stays.await.unwrap();
        assert_eq!(told.try_iter().collect::<Vec<_>>(), ["b"]);
        // One that was given to somebody who went away before they took it.
        let held = turns.take(&"a").await;
        let mut late = Box::pin(turns.take(&"b"));
        assert!(poll_fn(|context| Poll::Ready(late.as_mut().poll(context).is_pending())).await);
        drop(held);
        drop(late);
        assert!(turns.line().waiting.is_empty() && turns.line().free == 1);
    }
}
