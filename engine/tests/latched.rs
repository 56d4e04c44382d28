//! The end of a pool that has stopped taking writes.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    fs::File,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use cairn_engine::{ErrorKind, IoBuf, MIB, OpenOptions, Pool, PoolOptions, StorageKind, VolumeOptions};

/// A file in memory that can be sealed against writes, and its path.
fn sealable() -> (File, String) {
    // SAFETY: the name is a string that ends with a zero.
    let fd = unsafe { libc::memfd_create(c"pool".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the kernel just made this descriptor for us.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let path = format!("/proc/self/fd/{fd}");
    (file, path)
}

/// From here on every write to the file fails.
fn seal(file: &File) {
    // SAFETY: plain system call on a descriptor that we own.
    let failed = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_WRITE) };
    assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
}

/// Closing a pool that had stopped after a failure once said that all was well, though writes that it had acknowledged were lost.
#[test]
fn closing_says_that_writes_were_lost() {
    let dir = tempfile::tempdir().unwrap();
    let made = dir.path().join("pool.cairn");
    pollster::block_on(async {
        let open = OpenOptions::new().storage(StorageKind::Pread);
        let pool = Pool::create(&made, PoolOptions::new().size(32 * MIB).open(open.clone())).await.unwrap();
        drop(pool.create_volume("a", MIB, VolumeOptions::default()).await.unwrap());
        pool.close().await.unwrap();
        pool.close().await.unwrap();

        let (file, path) = sealable();
        let _bytes = std::fs::copy(&made, &path).unwrap();
        let pool = Pool::open(&path, open).await.unwrap();
        let volume = pool.volume("a").await.unwrap();
        volume.write(0, IoBuf::from(&[7; 4096][..])).await.unwrap();
        seal(&file);
        assert_eq!(pool.checkpoint().await.unwrap_err().kind(), ErrorKind::ReadOnly);
        assert_eq!(volume.flush().await.unwrap_err().kind(), ErrorKind::ReadOnly);
        assert!(pool.stats().await.unwrap().read_only.is_some());
        assert_eq!(volume.read(0, 4096).await.unwrap()[..], [7; 4096]);
        assert_eq!(pool.close().await.unwrap_err().kind(), ErrorKind::ReadOnly);
        assert_eq!(pool.close().await.unwrap_err().kind(), ErrorKind::Closed, "it is no better the second time");
    });
}
