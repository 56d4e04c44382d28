//! A connection in transmission: requests go out on the caller's thread, replies come in on one of their own.

use std::{
    collections::HashMap,
    io::{self, Write},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use super::{
    Address, Export, Incoming, Socket, Wish,
    reply::{Expected, read_replies},
    shake_hands,
};

const REQUEST: u32 = 0x2560_9513;
const FUA: u16 = 1;

/// A request. Offsets and lengths in bytes.
#[derive(Clone, Debug)]
pub enum Request {
    /// Read.
    Read {
        /// First byte.
        offset: u64,
        /// How many.
        length: u32,
    },
    /// Write.
    Write {
        /// First byte.
        offset: u64,
        /// What.
        data: Vec<u8>,
        /// Answer when it is committed.
        fua: bool,
    },
    /// Discard.
    Trim {
        /// First byte.
        offset: u64,
        /// How many.
        length: u32,
    },
    /// Write zeros.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// How many.
        length: u32,
    },
    /// Commit what was acknowledged.
    Flush,
}

impl Request {
    fn header(&self, cookie: u64) -> [u8; 28] {
        let (flags, command, offset, length) = match self {
            Self::Read { offset, length } => (0, 0u16, *offset, *length),
            Self::Write { offset, data, fua } => {
                let length = u32::try_from(data.len()).expect("tests write less than 4 GiB at once");
                (if *fua { FUA } else { 0 }, 1, *offset, length)
            }
            Self::Flush => (0, 3, 0, 0),
            Self::Trim { offset, length } => (0, 4, *offset, *length),
            Self::WriteZeroes { offset, length } => (0, 6, *offset, *length),
        };
        let mut header = [0; 28];
        header[..4].copy_from_slice(&REQUEST.to_be_bytes());
        header[4..6].copy_from_slice(&flags.to_be_bytes());
        header[6..8].copy_from_slice(&command.to_be_bytes());
        header[8..16].copy_from_slice(&cookie.to_be_bytes());
        header[16..24].copy_from_slice(&offset.to_be_bytes());
        header[24..].copy_from_slice(&length.to_be_bytes());
        header
    }
}

/// A connection. Hung up when dropped.
pub struct Connection {
    socket: Socket,
    export: Export,
    expected: Arc<Mutex<HashMap<u64, Expected>>>,
    reader: Option<JoinHandle<()>>,
}

impl Connection {
    /// Connects, and delivers everything that comes in to `deliver`, on a thread of its own.
    ///
    /// # Errors
    /// Nobody listens, or the export is refused.
    pub fn open(address: &Address, wish: &Wish, deliver: impl Fn(Incoming) + Send + 'static) -> io::Result<Self> {
        let mut socket = address.connect()?;
        let export = shake_hands(&mut socket, wish)?;
        let expected = Arc::new(Mutex::new(HashMap::new()));
        let (stream, waiting) = (socket.again()?, Arc::clone(&expected));
        let reader = Some(thread::spawn(move || read_replies(stream, &waiting, deliver)));
        Ok(Self { socket, export, expected, reader })
    }

    /// What the server told about the export.
    #[must_use]
    pub fn export(&self) -> Export {
        self.export
    }

    /// Sends a request. The cookie must not be in use.
    ///
    /// # Errors
    /// The connection is lost.
    ///
    /// # Panics
    /// The cookie is in use.
    pub fn submit(&mut self, cookie: u64, request: &Request) -> io::Result<()> {
        let expected = match request {
            Request::Read { offset, length } => Expected::data(*offset, *length as usize),
            _ => Expected::nothing(),
        };
        let before = self.expected.lock().expect("no holder panics").insert(cookie, expected);
        assert!(before.is_none(), "cookie {cookie} is in use");
        self.socket.write_all(&request.header(cookie))?;
        match request {
            Request::Write { data, .. } => self.socket.write_all(data),
            _ => Ok(()),
        }
    }

    /// The stream itself, for saying things that no honest client says.
    pub fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.socket.hang_up();
        if let Some(reader) = self.reader.take() {
            drop(reader.join());
        }
    }
}
