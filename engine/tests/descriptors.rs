//! Descriptors that are not the pool's, on its reactor: who waits for them is told, also of a peer that goes, and may go away itself.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
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
