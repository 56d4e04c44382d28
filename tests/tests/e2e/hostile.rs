//! Clients that are broken or mean: the server answers with an error or hangs up, and goes on serving the others.

use cairn_tests::{
    fixture::{Serve, Server, TempPool},
    nbd::{Client, Request, Wish, errno, shake_hands},
    pattern,
};
use fastrand::Rng;
use std::io::{Read, Write};

const MIB: u64 = 1 << 20;

/// Checks that an honest client is served, and that in the end nobody else is there.
fn assert_serves(server: &Server<'_>) {
    let mut client = Client::connect(&server.address(), "v").unwrap();
    client.write(0, &pattern::bytes(0, 8, 9));
    client.flush();
    assert_eq!(pattern::tags_of(&client.read(0, 4096), 0), Ok(vec![9; 8]));
    drop(client);
    // With nobody attached it can be deleted.
    server.pool().cairn_when_free(&["volume", "rename", "v", "w"]);
    server.pool().cairn_when_free(&["volume", "delete", "w"]);
    server.pool().cairn(["volume", "create", "v", "--size", "8MiB"]);
}

/// Sends bytes on a fresh stream, and reads until the server hangs up.
fn say(server: &Server<'_>, bytes: &[u8]) -> Vec<u8> {
    let mut stream = server.address().connect().unwrap();
    // The server may hang up before it has taken all.
    drop(stream.write_all(bytes));
    drop(stream.finish_sending());
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    answer
}

fn option(number: u32, length: u32, data: &[u8]) -> Vec<u8> {
    [b"IHAVEOPT", &number.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
}

#[test]
fn nonsense_while_haggling() {
    for serve in [Serve::unix(), Serve::tcp()] {
        let pool = TempPool::create("64MiB");
        pool.cairn(["volume", "create", "v", "--size", "8MiB"]);
        let server = serve.start(&pool);
        let mut rng = Rng::with_seed(0xbad);
        let flags = 3u32.to_be_bytes();
        let mut sayings: Vec<Vec<u8>> = vec![
            Vec::new(),
            vec![0; 4096],
            vec![0xff; 4096],
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            [&flags[..], &option(7, u32::MAX, b"")].concat(),
            [&flags[..], &option(7, 6, &[0xff; 6])].concat(),
            [&flags[..], &option(1, 4, b"none")].concat(),
            [&flags[..], &option(10, 70_000, &[0; 70_000])].concat(),
            [&flags[..], &option(0xdead_beef, 3, b"abc"), &option(3, 0, b""), &option(2, 0, b"")].concat(),
        ];
        for _ in 0..60 {
            let mut noise = vec![0; rng.usize(1..600)];
            rng.fill(&mut noise);
            let number = rng.u32(0..14);
            sayings.push([&flags[..], &option(number, rng.u32(0..64), &noise)].concat());
            sayings.push(noise);
        }
        for saying in &sayings {
            let answer = say(&server, saying);
            assert!(answer.starts_with(b"NBDMAGICIHAVEOPT"), "the greeting comes first: {answer:?}");
        }
        assert_serves(&server);
    }
}

#[test]
fn nonsense_in_transmission() {
    let pool = TempPool::create("64MiB");
    pool.cairn(["volume", "create", "v", "--size", "8MiB"]);
    let server = pool.serve();
    let mut rng = Rng::with_seed(0xbad2);
    for round in 0..80 {
        let mut stream = server.address().connect().unwrap();
        shake_hands(&mut stream, &Wish { export: "v".into(), structured: rng.bool() }).unwrap();
        let mut bytes = Vec::new();
        // Requests that are nearly right: some field of each is noise.
        for cookie in 0..rng.u64(1..20) {
            let mut header = [0; 28];
            header[..4].copy_from_slice(&0x2560_9513u32.to_be_bytes());
            header[7] = rng.u8(0..12);
            header[8..16].copy_from_slice(&cookie.to_be_bytes());
            header[16..24].copy_from_slice(&(rng.u64(0..10 * MIB)).to_be_bytes());
            header[24..].copy_from_slice(&rng.u32(0..100_000).to_be_bytes());
            let noisy = rng.usize(4..28);
            header[noisy] = rng.u8(..);
            bytes.extend_from_slice(&header);
        }
        if round % 4 == 0 {
            bytes.extend(std::iter::repeat_with(|| rng.u8(..)).take(500));
        }
        drop(stream.write_all(&bytes));
        drop(stream.finish_sending());
        drop(stream.read_to_end(&mut Vec::new()));
    }
    assert_serves(&server);
    server.stop();
    pool.assert_clean();
}

#[test]
fn requests_out_of_bounds_get_errors_and_the_connection_lives() {
    let pool = TempPool::create("64MiB");
    pool.cairn(["volume", "create", "v", "--size", "8MiB"]);
    pool.cairn(["snapshot", "create", "v@s"]);
    let server = pool.serve();
    for structured in [true, false] {
        let mut client = Client::connect_as(&server.address(), &Wish { export: "v".into(), structured }).unwrap();
        let write = |offset: u64, length: usize| Request::Write { offset, data: vec![1; length], fua: false };
        for (request, error) in [
            (Request::Read { offset: 8 * MIB, length: 512 }, errno::EINVAL),
            (Request::Read { offset: 8 * MIB - 512, length: 1024 }, errno::EINVAL),
            (Request::Read { offset: u64::MAX - 511, length: 512 }, errno::EINVAL),
            (Request::Read { offset: 1, length: 512 }, errno::EINVAL),
            (Request::Read { offset: 0, length: 513 }, errno::EINVAL),
            (write(8 * MIB, 512), errno::ENOSPC),
            (write(8 * MIB - 512, 4096), errno::ENOSPC),
            (write(100, 512), errno::EINVAL),
            (write(0, 100), errno::EINVAL),
            (Request::Trim { offset: 4 * MIB, length: u32::MAX - 511 }, errno::EINVAL),
            (Request::WriteZeroes { offset: 4 * MIB, length: u32::MAX - 511 }, errno::ENOSPC),
        ] {
            assert_eq!(client.call(&request), Err(error), "{request:?}");
        }
        assert!(client.read(0, 8 << 20).iter().all(|byte| *byte == 0), "nothing was written");
        let mut frozen = Client::connect(&server.address(), "v@s").unwrap();
        assert!(frozen.export().is_read_only());
        assert_eq!(frozen.call(&write(0, 512)), Err(errno::EPERM));
        assert_eq!(frozen.call(&Request::Trim { offset: 0, length: 4096 }), Err(errno::EPERM));
    }
}

#[test]
fn clients_that_vanish_leave_nothing_behind() {
    let pool = TempPool::create("64MiB");
    pool.cairn(["volume", "create", "v", "--size", "8MiB"]);
    let server = pool.serve();
    let mut kept = Vec::new();
    for round in 0..40u64 {
        let mut stream = server.address().connect().unwrap();
        shake_hands(&mut stream, &Wish { export: "v".into(), structured: true }).unwrap();
        // A write that announces 64 KiB, of which not all come.
        let mut header = [0; 28];
        header[..4].copy_from_slice(&0x2560_9513u32.to_be_bytes());
        header[7] = 1;
        header[16..24].copy_from_slice(&MIB.to_be_bytes());
        header[24..].copy_from_slice(&65536u32.to_be_bytes());
        stream.write_all(&header).unwrap();
        stream.write_all(&vec![0xee; round as usize * 1600]).unwrap();
        // Half of them hang up at once, half when all are there.
        if round % 2 == 0 {
            kept.push(stream);
        }
    }
    let mut client = Client::connect(&server.address(), "v").unwrap();
    assert!(client.read(MIB, 65536).iter().all(|byte| *byte == 0), "a write that never came whole is not carried out");
    drop((client, kept));
    assert_serves(&server);
}
