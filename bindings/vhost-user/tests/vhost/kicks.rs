//! No kick is lost, at whatever moment it comes.

use crate::{fixture::*, front_end::*, reactor::between_tasks, ring::*};
use pollster::block_on;
use rustix::{
    event::{EventfdFlags, eventfd},
    net::{RecvFlags, recv},
};
use std::{
    os::fd::{AsFd, AsRawFd},
    thread,
    time::{Duration, Instant},
};

const DATA: u64 = 4 << 20;
/// How often other tasks run in two turns of the reactor, at most.
const TWO_TURNS: u32 = 1100;

#[test]
fn a_kick_descriptor_that_is_given_again_loses_no_kick() {
    given_again(EventfdFlags::CLOEXEC);
}

#[test]
fn also_one_that_is_not_blocking() {
    given_again(EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
}

fn given_again(flags: EventfdFlags) {
    let fixture = Fixture::new();
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.set_up(&guest, FEATURES);
    let mut ring = Ring::new(&guest, 0, 64, 0x10000);
    ring.kick = eventfd(0, flags).unwrap();
    ring.start(&front_end, 0);
    let lost = block_on(fixture.pool.run(move |_| async move {
        for moment in 0..TWO_TURNS {
            if !kick_after(&front_end, &mut ring, moment).await {
                return Some(moment);
            }
        }
        None
    }));
    assert_eq!(lost.unwrap(), None, "the moment at which a kick was lost");
}

/// Has the ring begun again, and puts a request in when other tasks have run so often; whether it comes back. All of it on the reactor's
/// thread, so that nothing happens at the same time.
async fn kick_after(front_end: &FrontEnd, ring: &mut Ring, moment: u32) -> bool {
    // A kick for nothing: the ring waits anew in the same turn in which it is stopped and begun again.
    ring.kick();
    front_end.send(SET_VRING_KICK, NEED_REPLY, &words(&[0]), &[ring.kick.as_fd()]);
    passes(moment).await;
    ring.put(GET_ID, 0, DATA, 20, false).unwrap();
    ring.kick();
    let start = Instant::now();
    let mut back = false;
    between_tasks(|| {
        back = ring.next_used().is_some();
        back || start.elapsed() > PATIENCE
    })
    .await;
    let peek = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    between_tasks(|| recv(&front_end.stream, &mut [0u8; 20], peek).is_ok_and(|(n, _)| n == 20)).await;
    let _acknowledged = front_end.reply(SET_VRING_KICK);
    // Until it waits for the next one.
    passes(TWO_TURNS).await;
    back
}

async fn passes(mut count: u32) {
    between_tasks(|| {
        count = count.saturating_sub(1);
        count == 0
    })
    .await;
}

/// An eventfd that counts down kicks for as long as anybody can wait, and nobody has to do anything for it.
#[test]
fn endless_kicks_for_nothing_are_taken_now_and_then() {
    let fixture = Fixture::new();
    let (guest, front_end) = (Guest::new(), fixture.connect());
    front_end.set_up(&guest, FEATURES);
    let mut ring = Ring::new(&guest, 0, 64, 0x10000);
    ring.kick = eventfd(u32::MAX, EventfdFlags::CLOEXEC | EventfdFlags::SEMAPHORE).unwrap();
    ring.start(&front_end, 0);
    let left = || {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", ring.kick.as_raw_fd())).unwrap();
        let count = info.lines().find_map(|line| line.strip_prefix("eventfd-count:")).unwrap();
        u64::from_str_radix(count.trim(), 16).unwrap()
    };
    // What the first ones are is not held against anybody.
    eventually("they are taken", || left() < u64::from(u32::MAX) - 64);
    let (start, before) = (Instant::now(), left());
    thread::sleep(Duration::from_millis(500));
    let taken = before - left();
    // Each of them behind a pause of a millisecond, which may take longer.
    let most = start.elapsed().as_millis() as u64 + 2;
    assert!(taken <= most, "{taken} kicks in {most} ms");
    assert_eq!(ring.run(GET_ID, 0, DATA, 20), 0);
}
