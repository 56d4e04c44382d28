//! A server that is killed under a running guest: the next one goes on, and nothing is lost, done twice or answered wrongly.

use crate::{fixture::*, front_end::*, ring::*};
use cairn_engine::{ErrorKind, OpenOptions, Pool, PoolOptions, VolumeOptions};
use cairn_vhost_user::{Options, Server};
use pollster::block_on;
use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use vm_memory::{Bytes, GuestAddress};

/// Tells the process of [`serve_in_a_process_of_its_own`] where its pool is.
const DIRECTORY: &str = "CAIRN_VHOST_USER_TEST_DIRECTORY";
const DATA: u64 = 4 << 20;
const BLOCKS: u64 = 256;
const QUEUES: u32 = 2;
const RING: u16 = 128;

/// Not a test but the other process of the tests below, which they start; among them it finds nothing to do.
#[test]
fn serve_in_a_process_of_its_own() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let path = directory.join("p.cairn");
    let pool = if path.exists() {
        // The kernel finishes what the killed process had submitted, and holds the pool for as long.
        let mut opened = None;
        eventually("the pool is free", || match block_on(Pool::open(&path, OpenOptions::new())) {
            Ok(pool) => opened.insert(pool).path().exists(),
            Err(error) if error.kind() == ErrorKind::Busy => false,
            Err(error) => panic!("{error}"),
        });
        opened.unwrap()
    } else {
        let pool = block_on(Pool::create(&path, PoolOptions::new().size(256 << 20))).unwrap();
        drop(block_on(pool.create_volume("db", SIZE, VolumeOptions::default())).unwrap());
        pool
    };
    let server = block_on(Server::start(&pool, directory.join("sockets"), Options::default())).unwrap();
    println!("\nserved at {}", block_on(server.export("db")).unwrap().display());
    // Until it is killed; or until who started it is gone.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    std::process::exit(0);
}

struct Server_ {
    child: Child,
    socket: PathBuf,
}

impl Server_ {
    fn start(directory: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed::serve_in_a_process_of_its_own", "--nocapture"])
            .env(DIRECTORY, directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let socket = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("served at ").map(PathBuf::from));
        Self { child, socket: socket.expect("it serves") }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        let _status = self.child.wait().unwrap();
    }
}

/// Of one request in flight.
#[derive(Debug)]
enum Doing {
    Write { block: u64, value: u64 },
    Discard { block: u64 },
    Read { block: u64 },
    Flush,
}

/// A guest with its rings, and what its disk must hold.
struct Machine {
    guest: Guest,
    rings: Vec<Ring>,
    /// The in-flight region, once there is one.
    books: Option<(Vec<u8>, OwnedFd)>,
    disk: HashMap<u64, u64>,
    doing: Vec<HashMap<u16, Doing>>,
    random: u64,
    written: u64,
}

impl Machine {
    fn new(seed: u64) -> Self {
        let guest = Guest::new();
        let rings = (0..QUEUES).map(|i| Ring::new(&guest, i, RING, 0x10000 + 0x20000 * u64::from(i))).collect();
        let doing = (0..QUEUES).map(|_| HashMap::new()).collect();
        Self { guest, rings, books: None, disk: HashMap::new(), doing, random: seed, written: 0 }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.random >> 33) % below
    }

    fn connect(&mut self, server: &Server_, features: u64) -> FrontEnd {
        let front_end = FrontEnd::connect(&server.socket);
        front_end.set_up(&self.guest, features);
        if self.books.is_none() {
            let shape = [&words(&[0, 0])[..], &(QUEUES as u16).to_ne_bytes(), &RING.to_ne_bytes(), &[0; 4]].concat();
            front_end.send(GET_INFLIGHT_FD, 0, &shape, &[]);
            let (body, file) = front_end.reply(GET_INFLIGHT_FD);
            self.books = Some((body, file.unwrap()));
        }
        let (body, file) = self.books.as_ref().unwrap();
        front_end.must(SET_INFLIGHT_FD, body, &[file.as_fd()]);
        for ring in &self.rings {
            // As QEMU does: it knows of nothing but the used ring.
            ring.start(&front_end, ring.used_index());
        }
        front_end
    }

    fn data(queue: usize, head: u16) -> u64 {
        DATA + queue as u64 * (1 << 20) + u64::from(head) * 4096
    }

    /// Puts a request in, of a block that no other request in flight is about.
    fn put(&mut self, queue: usize) {
        let Some(head) = self.rings[queue].next_head() else { return };
        let block = self.random(BLOCKS);
        let taken = self.doing.iter().flat_map(HashMap::values).any(|doing| match doing {
            Doing::Write { block: other, .. } | Doing::Discard { block: other } | Doing::Read { block: other } => {
                *other == block
            }
            Doing::Flush => false,
        });
        if taken {
            return;
        }
        let data = Self::data(queue, head);
        let kind = self.random(10);
        let (kind, sector, length, doing) = match kind {
            0 => (FLUSH, 0, 0, Doing::Flush),
            1 => {
                let range = [(block * 8).to_le_bytes(), 8u64.to_le_bytes()].concat();
                self.guest.memory.write_slice(&range, GuestAddress(data)).unwrap();
                (DISCARD, 0, 16, Doing::Discard { block })
            }
            2 | 3 => (IN, block * 8, 4096, Doing::Read { block }),
            _ => {
                self.written += 1;
                let value = self.written;
                self.guest.memory.write_slice(&value.to_le_bytes().repeat(512), GuestAddress(data)).unwrap();
                (OUT, block * 8, 4096, Doing::Write { block, value })
            }
        };
        let indirect = self.random(2) == 0;
        assert_eq!(self.rings[queue].put(kind, sector, data, length, indirect), Some(head));
        self.doing[queue].insert(head, doing);
        self.rings[queue].kick();
    }

    /// Takes what has come back; how much that was.
    fn take(&mut self, queue: usize) -> usize {
        let mut taken = 0;
        while let Some((head, _, status)) = self.rings[queue].next_used() {
            let doing = self.doing[queue].remove(&head).expect("it was in flight, and comes back once");
            assert_eq!(status, 0, "{doing:?}");
            match doing {
                Doing::Write { block, value } => drop(self.disk.insert(block, value)),
                Doing::Discard { block } => drop(self.disk.remove(&block)),
                Doing::Read { block } => {
                    let mut bytes = vec![0; 4096];
                    self.guest.memory.read_slice(&mut bytes, GuestAddress(Self::data(queue, head))).unwrap();
                    let expected = self.disk.get(&block).copied().unwrap_or(0).to_le_bytes().repeat(512);
                    assert!(bytes == expected, "block {block}: {:?}, not {:?}", &bytes[..8], &expected[..8]);
                }
                Doing::Flush => {}
            }
            taken += 1;
        }
        taken
    }

    /// Works until `n` requests have come back.
    fn work(&mut self, n: usize) {
        let mut done = 0;
        eventually("requests come back", || {
            for queue in 0..QUEUES as usize {
                self.put(queue);
                self.put(queue);
                done += self.take(queue);
            }
            done >= n
        });
    }

    fn finish(&mut self) {
        eventually("everything comes back", || {
            for queue in 0..QUEUES as usize {
                let _n = self.take(queue);
            }
            self.doing.iter().all(HashMap::is_empty)
        });
    }

    /// Compares the whole disk.
    fn check(&mut self) {
        for block in 0..BLOCKS {
            let head = self.rings[0].next_head().unwrap();
            assert_eq!(self.rings[0].put(IN, block * 8, Self::data(0, head), 4096, false), Some(head));
            self.doing[0].insert(head, Doing::Read { block });
            self.rings[0].kick();
            self.finish();
        }
    }
}

#[test]
fn a_killed_server_loses_no_request_and_no_write() {
    for seed in 0..2 {
        let directory = tempfile::tempdir().unwrap();
        let mut machine = Machine::new(seed);
        for round in 0..10 {
            let server = Server_::start(directory.path());
            let front_end = machine.connect(&server, FEATURES | if round % 2 == 0 { F_EVENT_INDEX } else { 0 });
            if round % 3 == 2 {
                machine.finish();
                machine.check();
            }
            let n = machine.random(400) as usize;
            machine.work(n);
            server.kill();
            assert!(front_end.is_closed());
        }
        let server = Server_::start(directory.path());
        let front_end = machine.connect(&server, FEATURES);
        machine.finish();
        machine.check();
        for ring in &machine.rings {
            assert_eq!(ring.stop(&front_end), u32::from(ring.available));
        }
        server.kill();
    }
}
