//! What must stay true of snapshots, clones and differences, whatever happens to the volume meanwhile.

use serde_json::Value;
use std::ops::Range;

use super::run::{Run, VOLUME};
use crate::{
    model::SECTORS_PER_BLOCK,
    nbd::Client,
    pattern::{self, SECTOR, Tag},
};

/// A snapshot and what it holds for ever.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) name: String,
    pub(super) tags: Vec<Tag>,
}

impl Snapshot {
    /// Name of its export.
    pub(super) fn export(&self) -> String {
        format!("{VOLUME}@{}", self.name)
    }
}

const CLONE: &str = "clone";

impl Run<'_> {
    fn any_snapshot(&mut self) -> Option<Snapshot> {
        let place = self.rng.choice(0..self.snapshots.len())?;
        Some(self.snapshots[place].clone())
    }

    /// One of them still holds what it held.
    pub(super) fn check_a_snapshot(&mut self) {
        if let Some(snapshot) = self.any_snapshot() {
            self.check(&snapshot);
        }
    }

    /// All of them do.
    pub(super) fn check_every_snapshot(&self) {
        for snapshot in &self.snapshots {
            self.check(snapshot);
        }
    }

    fn check(&self, snapshot: &Snapshot) {
        self.holds(&snapshot.export(), &snapshot.tags);
    }

    fn holds(&self, export: &str, expected: &[Tag]) {
        let found = self.read_export(export);
        let place = found.iter().zip(expected).position(|(a, b)| a != b);
        if let Some(place) = place {
            panic!("{export}: sector {place} was made by write {}, now by {}", expected[place], found[place]);
        }
        assert_eq!(found.len(), expected.len(), "size of {export}");
    }

    /// A clone starts as its snapshot, and what is written to it is seen by nobody else.
    pub(super) fn check_a_clone(&mut self) {
        let Some(snapshot) = self.any_snapshot() else { return };
        self.count("clones");
        let pool = self.server().pool();
        pool.cairn(["clone", &snapshot.export(), CLONE]);
        self.holds(CLONE, &snapshot.tags);
        let tag = self.id();
        let mut expected = snapshot.tags.clone();
        let mut client = Client::connect(&self.server().address(), CLONE).expect("the server takes clients");
        for _ in 0..16 {
            let first = self.rng.usize(0..expected.len());
            let last = (first + self.rng.usize(1..100)).min(expected.len());
            expected[first..last].fill(tag);
            client.write((first * SECTOR) as u64, &pattern::bytes(first as u64, (last - first) as u64, tag));
        }
        self.holds(CLONE, &expected);
        self.check(&snapshot);
        drop(client);
        pool.cairn_when_free(&["volume", "delete", CLONE]);
    }

    /// Every sector in which two snapshots differ lies in their difference, as what it is.
    pub(super) fn check_a_difference(&mut self) {
        let (Some(from), Some(to)) = (self.any_snapshot(), self.any_snapshot()) else { return };
        self.count("differences");
        let answer = self.server().pool().json(["snapshot", "diff", &from.export(), &to.export()]);
        let extents = extents_of(&answer);
        let mut kinds = vec![None; to.tags.len()];
        for (sectors, data) in &extents {
            for kind in &mut kinds[sectors.clone()] {
                assert_eq!(*kind, None, "extents overlap: {answer}");
                *kind = Some(*data);
            }
        }
        let told = format!("difference from {} to {}", from.export(), to.export());
        for (sector, kind) in kinds.iter().enumerate() {
            let (old, new) = (from.tags.get(sector).copied().unwrap_or(0), to.tags[sector]);
            assert!(old == new || kind.is_some(), "{told}: sector {sector} differs and is not in it");
            assert!(*kind != Some(false) || new == 0, "{told}: sector {sector} is no hole");
        }
        // A block whose pointer differs was written between the two, so blocks equal in both are rare: those that a write
        // of zeros to zeros has touched. Equal versions have no difference at all.
        if from.name == to.name {
            assert!(extents.is_empty(), "{told}: {answer}");
        }
    }

    pub(super) fn delete_a_snapshot(&mut self) {
        if self.snapshots.len() < 3 {
            return;
        }
        self.count("deletions");
        let place = self.rng.usize(0..self.snapshots.len());
        let snapshot = self.snapshots.remove(place);
        self.server().pool().cairn_when_free(&["snapshot", "delete", &snapshot.export()]);
    }
}

/// The extents of a difference, in sectors, and whether they are data.
fn extents_of(answer: &Value) -> Vec<(Range<usize>, bool)> {
    let extents = answer["extents"].as_array().unwrap_or_else(|| panic!("no extents: {answer}"));
    let number = |extent: &Value, name: &str| {
        let bytes = extent[name].as_u64().unwrap_or_else(|| panic!("no {name}: {extent}"));
        usize::try_from(bytes).expect("tests use small volumes")
    };
    let in_sectors = |extent: &Value| {
        let (offset, length) = (number(extent, "offset"), number(extent, "length"));
        assert!(offset.is_multiple_of(SECTOR * SECTORS_PER_BLOCK) && length.is_multiple_of(SECTOR), "{extent}");
        (offset / SECTOR..(offset + length) / SECTOR, extent["kind"] == "data")
    };
    extents.iter().map(in_sectors).collect()
}
