//! Fillers on other threads: what users of a volume wait for is asked of them through a queue.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};

use futures_channel::oneshot;

use super::{Kept, LOCAL, Pool, Volume};
use crate::{
    error::{Result, busy},
    gate::Filler,
    info::VolumeInfo,
    reactor::Shared,
    units::VolumeId,
};

/// A range that somebody waits for. Dropped without an answer, the operation that waits for it fails.
#[must_use = "somebody waits for the answer"]
pub struct FillRequest {
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    answer: oneshot::Sender<Result<()>>,
}

impl FillRequest {
    /// Answers: the range holds its content from here on, or why it cannot be filled. See [`Filler::fill`].
    pub fn done(self, outcome: Result<()>) {
        let _nobody_waits = self.answer.send(outcome);
    }
}

#[derive(Default)]
struct Requests {
    /// In order of their coming. Those that nobody waits for any more go with the next one that comes.
    waiting: VecDeque<FillRequest>,
    /// Who waits for the next one.
    filler: Option<Waker>,
    ended: bool,
}

/// One volume's requests on their way from the reactor to its filler: never more than there are operations.
#[derive(Clone, Default)]
struct Queue {
    requests: Arc<Mutex<Requests>>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, request: FillRequest) {
        let mut requests = self.lock();
        if requests.ended {
            return;
        }
        requests.waiting.retain(|r| !r.answer.is_canceled());
        requests.waiting.push_back(request);
        let filler = requests.filler.take();
        drop(requests);
        if let Some(filler) = filler {
            filler.wake();
        }
    }

    /// Nobody answers any more, or nobody asks any more.
    fn end(&self) {
        let mut requests = self.lock();
        requests.ended = true;
        let (unanswered, filler) = (std::mem::take(&mut requests.waiting), requests.filler.take());
        drop(requests);
        drop(unanswered);
        if let Some(filler) = filler {
            filler.wake();
        }
    }
}

/// The reactor's end of the queue.
struct Remote(Queue);

impl Filler for Remote {
    fn fill(&self, offset: u64, length: u64) -> Pin<Box<dyn Future<Output = Result<()>>>> {
        let (answer, answered) = oneshot::channel();
        self.0.put(FillRequest { offset, length, answer });
        Box::pin(async move {
            answered.await.unwrap_or_else(|_| {
                Err(busy("its restore has stopped without an answer: start it again, then repeat this"))
            })
        })
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// What users of a volume that is filling wait for. While this exists, the volume can be opened; dropped, it is nobody's filler any more.
/// It does not keep the pool open.
///
/// ```
/// use cairn_engine::{IoBuf, MIB, Pool, PoolOptions, VolumeOptions};
/// # fn main() -> cairn_engine::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # pollster::block_on(async {
/// let pool = Pool::create(dir.path().join("pool.cairn"), PoolOptions::new().size(64 * MIB)).await?;
/// let options = VolumeOptions { filling: true, ..VolumeOptions::default() };
/// let inner = pool.create_volume("db", MIB, options).await?;
/// let mut requests = pool.fill_requests("db").await?;
/// let filler = std::thread::spawn(move || {
///     pollster::block_on(async {
///         while let Some(request) = requests.next().await {
///             let content = IoBuf::from(&vec![7; request.length as usize][..]);
///             let outcome = inner.write(request.offset, content).await;
///             request.done(outcome);
///         }
///     })
/// });
/// let volume = pool.volume("db").await?;
/// assert_eq!(volume.read(8192, 512).await?[..], [7; 512]);
/// pool.filled("db").await?;
/// filler.join().unwrap();
/// # drop(volume);
/// pool.close().await
/// # })
/// # }
/// ```
pub struct FillRequests {
    queue: Queue,
    volume: VolumeId,
    number: u64,
    shared: Arc<Shared>,
}

impl FillRequests {
    /// Waits for the next request. `None`: there will be no more, since the volume is full or deleted, or the pool is being closed.
    pub async fn next(&mut self) -> Option<FillRequest> {
        poll_fn(|cx| {
            let mut requests = self.queue.lock();
            while let Some(request) = requests.waiting.pop_front() {
                if !request.answer.is_canceled() {
                    return Poll::Ready(Some(request));
                }
            }
            if requests.ended {
                return Poll::Ready(None);
            }
            requests.filler = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Drop for FillRequests {
    fn drop(&mut self) {
        self.queue.end();
        let (volume, number) = (self.volume, self.number);
        let _closed = self.shared.post(Box::new(move || {
            if let Some(pool) = LOCAL.with_borrow(Option::clone) {
                pool.core.gates.unregister(volume, Some(number));
            }
        }));
    }
}

impl Pool {
    /// Takes over the filling of a volume: from here on it can be opened, and who touches a range of it waits for an answer to the request
    /// that comes from here.
    ///
    /// # Errors
    /// See [`LocalPool::set_filler`](crate::LocalPool::set_filler).
    pub async fn fill_requests(&self, volume: &str) -> Result<FillRequests> {
        let (shared, name) = (self.inner.shared.clone(), volume.to_owned());
        self.call(move |pool| async move {
            let queue = Queue::default();
            let (volume, number) = pool.register_filler(&name, Rc::new(Remote(queue.clone())))?;
            Ok(FillRequests { queue, volume, number, shared })
        })
        .await
    }

    /// Opens a volume that is filling as its filler sees it.
    ///
    /// # Errors
    /// See [`LocalPool::open_to_fill`](crate::LocalPool::open_to_fill).
    pub async fn volume_to_fill(&self, name: &str) -> Result<Volume> {
        let (shared, owned) = (self.inner.shared.clone(), name.to_owned());
        let opened = self.call(move |pool| async move {
            let volume = pool.open_to_fill(&owned)?;
            let read_only = volume.is_read_only();
            Ok((Kept::new(volume, shared), read_only))
        });
        let (kept, read_only) = opened.await?;
        Ok(self.handle(kept, name.to_owned(), read_only))
    }

    /// The volume holds all of its content.
    ///
    /// # Errors
    /// See [`LocalPool::filled`](crate::LocalPool::filled).
    pub async fn filled(&self, volume: &str) -> Result<VolumeInfo> {
        let volume = volume.to_owned();
        self.call(move |pool| async move { pool.filled(&volume).await }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_waits_for_is_not_kept() {
        let queue = Queue::default();
        let mut waiting = Vec::new();
        for offset in 0..100 {
            let (answer, answered) = oneshot::channel();
            queue.put(FillRequest { offset, length: 1, answer });
            if offset % 50 == 0 {
                waiting.push(answered);
            }
        }
        assert_eq!(queue.lock().waiting.iter().map(|r| r.offset).collect::<Vec<_>>(), [0, 50, 99]);
    }
}
