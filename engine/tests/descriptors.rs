//! Descriptors that are not the pool's, on its reactor: who waits for them is told, also of a peer that goes, and may go away itself.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    rc::Rc,
};

use cairn_engine::{MIB, OpenOptions, Pool, PoolOptions, StorageKind};
use pollster::block_on;

#[test]
fn events_and_hang_ups_are_told_and_nobody_has_to_wait_for_them() {
    for storage in [StorageKind::Uring, StorageKind::Pread] {
        let dir = tempfile::tempdir().unwrap();
        let options = PoolOptions::new().size(64 * MIB).open(OpenOptions::new().storage(storage));
        block_on(async {
            let pool = Pool::create(dir.path().join("pool"), options).await.unwrap();
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            let (readable, gone) = pool
                .run(move |pool| async move {
                    let (fd, reactor) = (theirs.as_raw_fd(), pool.reactor().clone());
                    // Nobody waits for this one any more.
                    drop(reactor.spawn({
                        let reactor = reactor.clone();
                        async move { reactor.poll(fd, libc::POLLIN).await.map(drop) }
                    }));
                    let writer = reactor.spawn({
                        let reactor = reactor.clone();
                        async move {
                            reactor.sleep(std::time::Duration::from_millis(1)).await;
                            ours.write_all(b"x").unwrap();
                            ours
                        }
                    });
                    let readable = reactor.poll(fd, libc::POLLIN | libc::POLLRDHUP).await.unwrap();
                    let _read = (&theirs).read(&mut [0; 8]).unwrap();
                    drop(writer.await);
                    (readable, reactor.poll(fd, libc::POLLRDHUP).await.unwrap())
                })
                .await
                .unwrap();
            assert_eq!(readable, libc::POLLIN, "{storage:?}");
            assert!(gone & libc::POLLRDHUP != 0, "{storage:?}: {gone:#x}");
            // One that waits for ever keeps nobody from closing.
            let (ours, theirs) = UnixStream::pair().unwrap();
            let waits = pool.run(move |pool| async move {
                let reactor = pool.reactor().clone();
                pool.reactor()
                    .spawn(async move { reactor.poll(theirs.as_raw_fd(), libc::POLLIN).await.map(drop) })
                    .detach();
            });
            waits.await.unwrap();
            pool.close().await.unwrap();
            drop(ours);
        });
    }
}

fn eventfd(value: u32, flags: libc::c_int) -> OwnedFd {
    // SAFETY: the kernel makes a descriptor for us, or says -1.
    let fd = unsafe { libc::eventfd(value, libc::EFD_CLOEXEC | flags) };
    assert!(fd >= 0);
    // SAFETY: it is ours alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[test]
fn events_are_counted_and_full_counters_keep_nobody_waiting() {
    for storage in [StorageKind::Uring, StorageKind::Pread] {
        for flags in [0, libc::EFD_NONBLOCK] {
            let dir = tempfile::tempdir().unwrap();
            let options = PoolOptions::new().size(64 * MIB).open(OpenOptions::new().storage(storage));
            let case = format!("{storage:?}, flags {flags}");
            block_on(async {
                let pool = Pool::create(dir.path().join("pool"), options).await.unwrap();
                let done = pool.run(move |pool| async move {
                    let reactor = pool.reactor().clone();
                    let fd = Rc::new(eventfd(3, flags));
                    assert_eq!(reactor.take_event(&fd).await.unwrap(), 3, "{case}");
                    // Who waits is told of what comes later, all at once.
                    let waiting = reactor.spawn({
                        let (reactor, fd) = (reactor.clone(), fd.clone());
                        async move { reactor.take_event(&fd).await }
                    });
                    reactor.sleep(std::time::Duration::from_millis(1)).await;
                    reactor.signal_event(&fd).await.unwrap();
                    assert_eq!(waiting.await.unwrap(), 1, "{case}");
                    reactor.signal_event(&fd).await.unwrap();
                    reactor.signal_event(&fd).await.unwrap();
                    assert_eq!(reactor.take_event(&fd).await.unwrap(), 2, "{case}");
                    // Nobody waits any more: the descriptor is closed when the kernel is done with it.
                    drop(reactor.spawn({
                        let (reactor, fd) = (reactor.clone(), fd.clone());
                        async move { reactor.take_event(&fd).await.map(drop) }
                    }));
                    // A full counter.
                    let full = u64::MAX - 1;
                    let two = Rc::new(eventfd(0, flags));
                    // SAFETY: eight readable bytes.
                    let written = unsafe { libc::write(two.as_raw_fd(), (&raw const full).cast(), 8) };
                    assert_eq!(written, 8);
                    for _ in 0..100 {
                        reactor.signal_event(&two).await.unwrap();
                    }
                    assert!(reactor.take_event(&two).await.unwrap() >= full, "{case}");
                    reactor.signal_event(&two).await.unwrap();
                    assert_eq!(reactor.take_event(&two).await.unwrap(), 1, "{case}");
                    let (socket, _) = UnixStream::pair().unwrap();
                    let no_event = reactor.signal_event(&Rc::new(OwnedFd::from(socket))).await.unwrap_err();
                    assert_eq!(no_event.raw_os_error(), Some(libc::EINVAL), "{case}");
                    // Who waits for ever keeps nobody from closing.
                    reactor
                        .spawn({
                            let reactor = reactor.clone();
                            async move { reactor.take_event(&fd).await.map(drop) }
                        })
                        .detach();
                });
                done.await.unwrap();
                pool.close().await.unwrap();
            });
        }
    }
}

/// Who waits for a counter and gives up leaves what is counted from then on, also when the kernel has not even begun.
#[test]
fn who_gives_up_takes_nothing_that_comes_later() {
    for storage in [StorageKind::Uring, StorageKind::Pread] {
        for flags in [0, libc::EFD_NONBLOCK] {
            let dir = tempfile::tempdir().unwrap();
            let options = PoolOptions::new().size(64 * MIB).open(OpenOptions::new().storage(storage));
            let case = format!("{storage:?}, flags {flags}");
            block_on(async {
                let pool = Pool::create(dir.path().join("pool"), options).await.unwrap();
                let done = pool.run(move |pool| async move {
                    let reactor = pool.reactor();
                    let fd = Rc::new(eventfd(0, flags));
                    let long = || reactor.sleep(std::time::Duration::from_secs(10));
                    for turns in 1..4u64 {
                        let over = async {
                            for _ in 1..turns {
                                reactor.sleep(std::time::Duration::from_micros(1)).await;
                            }
                        };
                        assert_eq!(reactor.take_event_until(&fd, over).await.unwrap(), None, "{case}");
                        // SAFETY: eight readable bytes.
                        let n = unsafe { libc::write(fd.as_raw_fd(), (&raw const turns).cast(), 8) };
                        assert_eq!(n, 8);
                        assert_eq!(reactor.take_event_until(&fd, long()).await.unwrap(), Some(turns), "{case}");
                    }
                    // What was there when it gave up is told or left, and nothing between.
                    reactor.signal_event(&fd).await.unwrap();
                    let taken = reactor.take_event_until(&fd, async {}).await.unwrap();
                    let left = match taken {
                        None => reactor.take_event_until(&fd, long()).await.unwrap(),
                        Some(_) => None,
                    };
                    assert_eq!(taken.or(left), Some(1), "{case}");
                });
                done.await.unwrap();
                pool.close().await.unwrap();
            });
        }
    }
}

/// Tasks that are always ready keep nobody from being told.
#[test]
fn a_task_that_never_waits_keeps_no_descriptor_waiting() {
    for storage in [StorageKind::Uring, StorageKind::Pread] {
        let dir = tempfile::tempdir().unwrap();
        let options = PoolOptions::new().size(64 * MIB).open(OpenOptions::new().storage(storage));
        block_on(async {
            let pool = Pool::create(dir.path().join("pool"), options).await.unwrap();
            let done = pool.run(move |pool| async move {
                let reactor = pool.reactor().clone();
                let busy = reactor.spawn(std::future::poll_fn(|cx| {
                    cx.waker().wake_by_ref();
                    std::task::Poll::<()>::Pending
                }));
                let fd = Rc::new(eventfd(0, 0));
                reactor.signal_event(&fd).await.unwrap();
                assert_eq!(reactor.take_event(&fd).await.unwrap(), 1);
                drop(busy);
            });
            done.await.unwrap();
            pool.close().await.unwrap();
        });
    }
}
