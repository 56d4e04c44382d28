//! A front-end that says what it is told to, also what it should not.

use crate::fixture::PATIENCE;
use rustix::{
    cmsg_space,
    event::{EventfdFlags, eventfd},
    fs::{MemfdFlags, ftruncate, memfd_create},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recvmsg, sendmsg,
    },
};
use std::{
    fs::File,
    io::{IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    sync::Arc,
};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

pub(crate) const GET_FEATURES: u32 = 1;
pub(crate) const SET_FEATURES: u32 = 2;
pub(crate) const SET_OWNER: u32 = 3;
pub(crate) const SET_MEM_TABLE: u32 = 5;
pub(crate) const SET_VRING_NUM: u32 = 8;
pub(crate) const SET_VRING_ADDR: u32 = 9;
pub(crate) const SET_VRING_BASE: u32 = 10;
pub(crate) const GET_VRING_BASE: u32 = 11;
pub(crate) const SET_VRING_KICK: u32 = 12;
pub(crate) const SET_VRING_CALL: u32 = 13;
pub(crate) const SET_VRING_ERR: u32 = 14;
pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
pub(crate) const SET_PROTOCOL_FEATURES: u32 = 16;
pub(crate) const GET_QUEUE_NUM: u32 = 17;
pub(crate) const SET_VRING_ENABLE: u32 = 18;
pub(crate) const SET_BACKEND_REQ_FD: u32 = 21;
pub(crate) const GET_CONFIG: u32 = 24;
pub(crate) const SET_CONFIG: u32 = 25;
pub(crate) const GET_INFLIGHT_FD: u32 = 31;
pub(crate) const SET_INFLIGHT_FD: u32 = 32;
pub(crate) const RESET_DEVICE: u32 = 34;
pub(crate) const ADD_MEM_REG: u32 = 37;
pub(crate) const REM_MEM_REG: u32 = 38;

pub(crate) const NEED_REPLY: u32 = 1 << 3;
pub(crate) const F_FLUSH: u64 = 1 << 9;
pub(crate) const F_EVENT_INDEX: u64 = 1 << 29;
/// Version 1, indirect descriptors, protocol features, flush.
pub(crate) const FEATURES: u64 = 1 << 32 | 1 << 28 | 1 << 30 | F_FLUSH;

/// Where the front-end says that it has the guest's memory.
pub(crate) const USER: u64 = 0x7f00_0000_0000;
pub(crate) const MEMORY: u64 = 32 << 20;

pub(crate) fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Two numbers of 32 bits.
pub(crate) fn pair(a: u32, b: u32) -> Vec<u8> {
    [a.to_ne_bytes(), b.to_ne_bytes()].concat()
}

pub(crate) fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

/// The guest's memory: what outlives front-end and back-end.
pub(crate) struct Guest {
    pub(crate) file: OwnedFd,
    pub(crate) memory: Arc<GuestMemoryMmap>,
}

impl Guest {
    pub(crate) fn new() -> Self {
        let file = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, MEMORY).unwrap();
        let offset = FileOffset::new(File::from(file.try_clone().unwrap()), 0);
        let range = (GuestAddress(0), MEMORY as usize, Some(offset));
        let memory = GuestMemoryMmap::from_ranges_with_files([range]).unwrap();
        Self { file, memory: Arc::new(memory) }
    }
}

pub(crate) struct FrontEnd {
    pub(crate) stream: UnixStream,
}

impl FrontEnd {
    pub(crate) fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream }
    }

    pub(crate) fn send_raw(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut room = [MaybeUninit::uninit(); cmsg_space!(ScmRights(200))];
        let mut control = SendAncillaryBuffer::new(&mut room);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        // A server that has closed already is not an error here: it shows when an answer is expected.
        sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).ok();
    }

    pub(crate) fn send(&self, request: u32, flags: u32, body: &[u8], fds: &[BorrowedFd<'_>]) {
        let header = [request, flags | 1, body.len() as u32].map(u32::to_ne_bytes).concat();
        self.send_raw(&[&header, body].concat(), fds);
    }

    /// The body of a reply to `request`, and its descriptor.
    #[track_caller]
    pub(crate) fn reply(&self, request: u32) -> (Vec<u8>, Option<OwnedFd>) {
        let mut header = [0; 12];
        let mut room = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut room);
        let flags = RecvFlags::WAITALL | RecvFlags::CMSG_CLOEXEC;
        let n = recvmsg(&self.stream, &mut [IoSliceMut::new(&mut header)], &mut control, flags).unwrap().bytes;
        assert_eq!(n, 12, "the server has closed");
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(4)), (request, 5));
        let mut body = vec![0; word(8) as usize];
        (&self.stream).read_exact(&mut body).unwrap();
        (body, fd)
    }

    #[track_caller]
    pub(crate) fn ask(&self, request: u32, body: &[u8]) -> Vec<u8> {
        self.send(request, 0, body, &[]);
        self.reply(request).0
    }

    #[track_caller]
    pub(crate) fn number(&self, request: u32) -> u64 {
        u64::from_ne_bytes(self.ask(request, &[])[..].try_into().unwrap())
    }

    /// Sends a message that wants to be acknowledged; whether it was done.
    #[track_caller]
    pub(crate) fn tell(&self, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        self.send(request, NEED_REPLY, body, fds);
        let (body, _) = self.reply(request);
        match u64::from_ne_bytes(body[..].try_into().unwrap()) {
            0 => true,
            1 => false,
            other => panic!("acknowledged with {other}"),
        }
    }

    #[track_caller]
    pub(crate) fn must(&self, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) {
        assert!(self.tell(request, body, fds), "message {request} was refused");
    }

    /// Agrees on features, and gives the guest's memory.
    #[track_caller]
    pub(crate) fn set_up(&self, guest: &Guest, features: u64) {
        self.agree(features);
        self.must(SET_MEM_TABLE, &words(&[1, 0, MEMORY, USER, 0]), &[guest.file.as_fd()]);
    }

    #[track_caller]
    pub(crate) fn agree(&self, features: u64) {
        let offered = self.number(GET_FEATURES);
        assert_eq!(features & !offered, 0, "{offered:#x}");
        let protocol = self.number(GET_PROTOCOL_FEATURES);
        self.send(SET_PROTOCOL_FEATURES, 0, &words(&[protocol]), &[]);
        self.must(SET_OWNER, &[], &[]);
        self.must(SET_FEATURES, &words(&[features]), &[]);
    }

    #[track_caller]
    pub(crate) fn config(&self, offset: u32, size: u32) -> Vec<u8> {
        let body = [&pair(offset, size)[..], &[0; 4], &vec![0; size as usize]].concat();
        let reply = self.ask(GET_CONFIG, &body);
        assert_eq!(reply[..8], pair(offset, size));
        reply[12..].to_vec()
    }

    /// Waits until the server has closed the connection.
    #[track_caller]
    pub(crate) fn is_closed(&self) -> bool {
        let mut rest = Vec::new();
        match (&self.stream).read_to_end(&mut rest) {
            Ok(_) => true,
            // It closed with something unread.
            Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    /// Sends bytes as they are.
    pub(crate) fn write(&self, bytes: &[u8]) {
        (&self.stream).write_all(bytes).ok();
    }
}
