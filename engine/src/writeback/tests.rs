//! Pieces, and the bookkeeping of backlogs against plain lists.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use super::*;
use crate::{
    rng::Rng,
    storage::buffer::IoBuf,
    units::{BLOCK_SIZE, VolumeId},
};

fn data(blocks: &[u8]) -> Rc<IoBuf> {
    let mut buf = IoBuf::zeroed(blocks.len() * BLOCK_SIZE);
    for (bytes, value) in buf.chunks_exact_mut(BLOCK_SIZE).zip(blocks) {
        bytes.fill(*value);
    }
    Rc::new(buf)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

#[test]
fn pieces_are_of_one_leaf_and_of_one_kind() {
    let blocks: Vec<u8> = [vec![1; 3], vec![0; 2], vec![2; 4]].concat();
    let pieces = pieces_of(252, &data(&blocks), is_zero);
    let found: Vec<_> = pieces.iter().map(|piece| (piece.block, piece.count, piece.data_blocks())).collect();
    assert_eq!(found, [(252, 3, 3), (255, 1, 0), (256, 1, 0), (257, 4, 4)]);
    assert_eq!(pieces[3].bytes(258).map(|bytes| bytes[0]), Some(2));
    assert_eq!(pieces[2].bytes(256), None);
}

/// Random entries come and go; what the backlog shows of each block is the last one that is still there.
#[test]
fn the_newest_entry_shows_and_all_is_counted() {
    for seed in 0..if cfg!(miri) { 1 } else { 20 } {
        let mut rng = Rng::new(seed);
        let backlogs = Rc::new(Backlogs::new(1 << 20));
        let backlog = backlogs.of(VolumeId(1));
        let mut waiting: VecDeque<(Rc<Entry>, u64, Vec<u8>)> = VecDeque::new();
        for step in 0..300 {
            let now = Duration::from_millis(step);
            if rng.below(2) == 0 {
                let block = rng.below(20);
                let values: Vec<u8> = (0..=rng.below(6)).map(|_| rng.below(3) as u8).collect();
                let buf = data(&values);
                let (capacity, pieces) = (buf.capacity() as u64, pieces_of(block, &buf, is_zero));
                if backlogs.room(&backlog, Backlogs::memory_of(&pieces, capacity), now) == Room::Yes {
                    let number = backlogs.take(&backlog, pieces, capacity, 4, None, now);
                    while let Some(entry) = backlog.next() {
                        let first = (entry.piece.block - block) as usize;
                        let part = values[first..first + entry.piece.count as usize].to_vec();
                        waiting.push_back((entry.clone(), entry.piece.block, part));
                    }
                    assert_eq!(backlog.taken(), number);
                }
            } else if let Some((entry, ..)) = waiting.pop_front() {
                backlogs.drained(&backlog, &entry);
            }
            let mut expected = BTreeMap::new();
            for (_, block, values) in &waiting {
                expected.extend((*block..).zip(values.iter().copied()));
            }
            assert_eq!(backlog.is_empty(), waiting.is_empty());
            assert_eq!(backlogs.memory(), waiting.iter().map(|(entry, ..)| entry.memory).sum::<u64>());
            let shown = backlog.overlay(0, 32);
            assert_eq!(shown.is_some(), !expected.is_empty());
            let mut bytes = vec![9; 32 * BLOCK_SIZE];
            if let Some(shown) = shown {
                shown.lay_over(&mut bytes);
            }
            for (block, bytes) in (0..).zip(bytes.chunks_exact(BLOCK_SIZE)) {
                let value = expected.get(&block).copied().unwrap_or(9);
                let ends = [bytes[0], bytes[BLOCK_SIZE - 1]];
                assert_eq!(ends, [value; 2], "seed {seed}, step {step}, block {block}");
            }
        }
    }
}

#[test]
fn memory_is_shared_by_those_who_want_it() {
    let backlogs = Rc::new(Backlogs::new(1 << 20));
    let (one, other) = (backlogs.of(VolumeId(1)), backlogs.of(VolumeId(2)));
    let now = Duration::ZERO;
    let put = |backlog: &Rc<Backlog>| {
        let buf = data(&[1; 16]);
        let (capacity, pieces) = (buf.capacity() as u64, pieces_of(0, &buf, is_zero));
        match backlogs.room(backlog, Backlogs::memory_of(&pieces, capacity), now) {
            Room::Yes => backlogs.take(backlog, pieces, capacity, 4, None, now) > 0,
            _ => false,
        }
    };
    let taken = std::iter::from_fn(|| put(&one).then_some(())).count();
    assert!(taken >= 15, "alone it has all: {taken}");
    assert!(!put(&other), "it waits for the first to leave");
    let line = backlogs.stand_in_line(&other);
    let leave = |backlog: &Rc<Backlog>| {
        let entry = backlog.next().unwrap();
        backlogs.drained(backlog, &entry);
    };
    for _ in 0..taken {
        leave(&one);
        assert!(!put(&one) || backlogs.memory() <= 1 << 19, "more than a half");
    }
    drop(line);
    while put(&other) {}
    assert!(put(&one) || backlogs.memory() > (1 << 20) - (1 << 17), "nobody is left out");
    // What has failed is out of what others share, and stays within the bound.
    backlogs.fail(&one, crate::error::invalid("cannot be written"));
    while put(&other) {}
    assert!(backlogs.memory() <= 1 << 20 && backlogs.memory() > (1 << 20) - (1 << 17), "the rest is for the other");
    assert!(one.failure().is_some());
    assert!(backlogs.forgive(&one, false) && !one.has_failed());
    let kept = backlogs.volume_gone(VolumeId(1));
    assert!(kept > 0 && kept.is_multiple_of(20), "16 blocks and 4 nodes of each");
}

#[test]
fn an_entry_that_waits_too_long_keeps_others_out() {
    let backlogs = Rc::new(Backlogs::new(1 << 20));
    let backlog = backlogs.of(VolumeId(1));
    let buf = data(&[1]);
    let number = backlogs.take(&backlog, pieces_of(0, &buf, is_zero), 4096, 4, None, Duration::from_secs(1));
    assert_eq!(backlogs.room(&backlog, 5000, Duration::from_millis(1050)), Room::Yes);
    assert_eq!(backlogs.room(&backlog, 5000, Duration::from_millis(1051)), Room::Wait);
    assert_eq!(backlogs.room(&backlog, 2 << 20, Duration::from_millis(1000)), Room::Never);
    let entry = backlog.next().unwrap();
    backlogs.drained(&backlog, &entry);
    assert!(backlog.has_drained(number));
    assert_eq!(backlogs.room(&backlog, 5000, Duration::from_secs(9)), Room::Yes);
}
