//! What attacks have in common: sockets that are slow to close, messages with them, and looks at whether anybody else is held up.

use crate::fixture::*;
use cairn_engine::Pool;
use pollster::block_on;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg, sockopt::set_socket_linger};
use std::{
    io::{IoSlice, Write},
    mem::MaybeUninit,
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Command, ExitStatus},
    sync::mpsc,
    thread,
    time::Duration,
};

/// A TCP socket whose last close waits for a peer that does not read, and that peer.
pub(crate) fn lingering() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    while stream.write(&[0; 1 << 16]).is_ok() {}
    set_socket_linger(&stream, Some(Duration::from_secs(600))).unwrap();
    (stream.into(), peer)
}

pub(crate) fn pass(to: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut room);
    assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
}

/// A message without a body, or the beginning of one.
pub(crate) fn header(request: u32, size: u32) -> Vec<u8> {
    [request, 1, size].map(u32::to_ne_bytes).concat()
}

/// Has the reactor do something else until `work` is done, so that it finds all of that at once, and nothing of it is the test's any more.
pub(crate) fn while_busy(fixture: &Fixture, work: impl FnOnce()) {
    let ((begin, begun), (end, ended)) = (mpsc::channel(), mpsc::channel::<()>());
    let pool = fixture.pool.clone();
    let busy = thread::spawn(move || {
        block_on(pool.run(move |_| async move {
            begin.send(()).unwrap();
            // Ends with an error, when nothing more can come.
            ended.recv().unwrap_err();
        }))
    });
    begun.recv().unwrap();
    work();
    drop(end);
    busy.join().unwrap().unwrap();
}

/// Whether the reactor answers at all. (If not, who asks is left behind.)
pub(crate) fn answers(pool: &Pool) -> bool {
    let (pool, (tell, told)) = (pool.clone(), mpsc::channel());
    thread::spawn(move || tell.send(block_on(pool.run(|_| async {})).is_ok()));
    told.recv_timeout(PATIENCE).is_ok()
}

/// A page that nobody fills: whoever touches it waits until the descriptor is closed. None where this user may not have such.
#[allow(unsafe_code)]
pub(crate) fn page_that_never_comes() -> Option<(usize, OwnedFd)> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: plain system calls; the page stays mapped for good, and the numbers are those of `linux/userfaultfd.h`.
    unsafe {
        let faults = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK);
        if faults < 0 {
            return None;
        }
        let faults = OwnedFd::from_raw_fd(faults as i32);
        let page = libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0);
        let mut api = [0xaau64, 0, 0];
        assert_eq!(libc::ioctl(faults.as_raw_fd(), 0xc018_aa3f, api.as_mut_ptr()), 0);
        let mut range = [page as u64, 4096, 1, 0];
        assert_eq!(libc::ioctl(faults.as_raw_fd(), 0xc020_aa00, range.as_mut_ptr()), 0);
        Some((page as usize, faults))
    }
}

/// Runs one test of this program in a process of its own, with a variable that tells it what to do there.
pub(crate) fn run_alone(test: &str, variable: &str, value: &str) -> ExitStatus {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(variable, value).status().unwrap()
}
