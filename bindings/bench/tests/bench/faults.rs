//! A server that loses, mixes up and spoils what it was told to keep: verification must notice each of these during the run.

use cairn_bench::{Bench, NbdUri, Report, Target, Verify};
use cairn_engine::{ErrorKind, Result};
use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use crate::{
    file::directory,
    site::{go, pattern},
};

const SIZE: usize = 1 << 20;

/// What the server does wrong with one request in the middle of the run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    None,
    /// A write is acknowledged and forgotten.
    Lost,
    /// A bit of a read is another one.
    Flipped,
    /// A write goes to the place beside it.
    Misplaced,
    /// The second half of a write is forgotten.
    Torn,
    /// A write fails.
    Failed,
    /// A reply names a request that is not in flight.
    Stray,
    /// Nothing is answered for so many milliseconds.
    Stall(u64),
}

fn number<const N: usize>(stream: &mut UnixStream) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

/// Fixed newstyle without structured replies.
fn greet(stream: &mut UnixStream) -> Option<()> {
    stream.write_all(&[&b"NBDMAGICIHAVEOPT"[..], &3u16.to_be_bytes()].concat()).ok()?;
    let _flags: [u8; 4] = number(stream)?;
    loop {
        let _magic: [u8; 8] = number(stream)?;
        let option = u32::from_be_bytes(number(stream)?);
        let mut data = vec![0; u32::from_be_bytes(number(stream)?) as usize];
        stream.read_exact(&mut data).ok()?;
        let mut answer = |kind: u32, data: &[u8]| {
            let head =
                [&0x0003_e889_0455_65a9u64.to_be_bytes()[..], &option.to_be_bytes(), &kind.to_be_bytes()].concat();
            stream.write_all(&[&head[..], &(data.len() as u32).to_be_bytes(), data].concat()).ok()
        };
        if option == 7 {
            answer(3, &[&0u16.to_be_bytes()[..], &(SIZE as u64).to_be_bytes(), &5u16.to_be_bytes()].concat())?;
            return answer(1, &[]);
        }
        answer((1 << 31) + 1, b"only GO")?;
    }
}

/// Serves a disk in memory; `at`: the write (or read) that goes wrong.
fn serve(mut stream: UnixStream, disk: &mut [u8], fault: Fault, at: u64) -> Option<()> {
    greet(&mut stream)?;
    let (mut reads, mut writes) = (0, 0);
    loop {
        let header: [u8; 28] = number(&mut stream)?;
        let command = u16::from_be_bytes([header[6], header[7]]);
        let offset = u64::from_be_bytes(header[16..24].try_into().unwrap()) as usize;
        let length = u32::from_be_bytes(header[24..28].try_into().unwrap()) as usize;
        let mut handle: [u8; 8] = header[8..16].try_into().unwrap();
        let (mut error, mut data) = (0u32, Vec::new());
        match command {
            0 => {
                reads += 1;
                data = disk[offset..offset + length].to_vec();
                if let Fault::Stall(millis) = fault
                    && reads == at
                {
                    thread::sleep(Duration::from_millis(millis));
                }
                if fault == Fault::Flipped && reads == at {
                    data[length / 2 + 100] ^= 4;
                }
            }
            1 => {
                writes += 1;
                let mut payload = vec![0; length];
                stream.read_exact(&mut payload).ok()?;
                let place = match (fault, writes == at) {
                    (Fault::Lost, true) => 0..0,
                    (Fault::Misplaced, true) => (offset + length) % SIZE..(offset + length) % SIZE + length,
                    (Fault::Torn, true) => offset..offset + length / 2,
                    _ => offset..offset + length,
                };
                let kept = place.len();
                disk[place].copy_from_slice(&payload[..kept]);
                if fault == Fault::Failed && writes == at {
                    error = 28;
                }
                if fault == Fault::Stray && writes == at {
                    handle = [0xff; 8];
                }
            }
            2 => return Some(()),
            _ => {}
        }
        let reply = [&0x6744_6698u32.to_be_bytes()[..], &error.to_be_bytes(), &handle, &data].concat();
        stream.write_all(&reply).ok()?;
    }
}

/// Runs a pattern against a server with a fault.
pub(crate) fn with(fault: Fault, at: u64, bench: &Bench) -> Result<Report> {
    let directory = directory();
    let socket = directory.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let over = &over;
        let _server = scope.spawn(move || {
            let mut disk = vec![0; SIZE];
            while let Ok((stream, _)) = listener.accept() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let _ended = serve(stream, &mut disk, fault, at);
            }
        });
        let uri: NbdUri = format!("nbd+unix:///?socket={}", socket.display()).parse().unwrap();
        let outcome = go(Target::Nbd(uri), bench);
        over.store(true, Ordering::SeqCst);
        drop(UnixStream::connect(&socket));
        outcome
    })
}

fn verified(name: &str) -> Bench {
    Bench { verify: Verify::All, depth: 8, ..pattern(name, 2000) }
}

#[test]
fn an_honest_server_is_believed() {
    for name in ["write", "randwrite", "randrw"] {
        let report = with(Fault::None, 0, &verified(name)).unwrap();
        assert_eq!(report.verify.unwrap().failures, 0, "{name}");
    }
}

#[test]
fn every_lie_is_noticed() {
    for (fault, words) in [
        (Fault::Lost, "found write "),
        (Fault::Flipped, "checksum"),
        (Fault::Misplaced, "written to offset"),
        (Fault::Torn, "found write "),
    ] {
        let report = with(fault, 900, &verified("randrw")).unwrap();
        let verify = report.verify.unwrap();
        assert!(verify.failures > 0 && verify.told.iter().any(|told| told.contains(words)), "{fault:?}: {verify:?}");
    }
}

#[test]
fn the_pass_at_the_end_finds_what_no_read_has_met() {
    // The last round of sequential writes: nothing reads or overwrites them afterwards.
    let bench = Bench { block: 4096, ..verified("write") };
    let verify = with(Fault::Lost, 1990, &bench).unwrap().verify.unwrap();
    assert_eq!(verify.failures, 8, "{verify:?}");
    let blind = Bench { verify: Verify::Reads, ..bench };
    assert_eq!(with(Fault::Lost, 1990, &blind).unwrap().verify.unwrap().failures, 0);
}

#[test]
fn failed_requests_end_the_run_and_are_named() {
    let error = with(Fault::Failed, 100, &verified("randwrite")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(error.to_string().starts_with("write of 4096 bytes at "), "{error}");
    let error = with(Fault::Stray, 100, &verified("randwrite")).unwrap_err();
    assert!(error.to_string().contains("not in flight"), "{error}");
}
