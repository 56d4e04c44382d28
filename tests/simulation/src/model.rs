//! What a pool must hold, as plain maps, and how each operation changes it.

use std::{collections::BTreeMap, ops::Range, rc::Rc};

use cairn_engine::{IoBuf, SECTOR, SyncMode};

use crate::restore;

/// Sectors in a block.
pub(crate) const PER_BLOCK: u64 = cairn_engine::BLOCK / SECTOR;

fn mix(value: u64) -> u64 {
    let z = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn digest_of(sector: u64, tag: u64) -> u64 {
    if tag == 0 { 0 } else { mix(mix(sector + 1) ^ tag) }
}

/// The bytes of a range of sectors that all carry `tag` (0: zeros). No two sectors with different tags or numbers are alike.
pub(crate) fn fill(buf: &mut [u8], first: u64, tag: u64) {
    if tag == 0 {
        buf.fill(0);
        return;
    }
    for (sector, bytes) in (first..).zip(buf.chunks_exact_mut(SECTOR as usize)) {
        let mut word = tag;
        for chunk in bytes.chunks_exact_mut(8) {
            chunk.copy_from_slice(&word.to_le_bytes());
            word = word.wrapping_mul(5).wrapping_add(sector | 1);
        }
    }
}

/// The tag that a sector carries.
pub(crate) fn tag_of(sector: u64, bytes: &[u8]) -> Result<u64, String> {
    let (words, _) = bytes.as_chunks::<8>();
    let tag = words.first().map_or(0, |w| u64::from_le_bytes(*w));
    let mut expected = [0; SECTOR as usize];
    fill(&mut expected, sector, tag);
    if bytes == expected {
        Ok(tag)
    } else {
        Err(format!("sector {sector} is torn or from elsewhere (begins with {tag:#x})"))
    }
}

/// A buffer of `count` sectors from `first` on.
pub(crate) fn buffer(first: u64, count: u64, tag: u64) -> IoBuf {
    let mut buf = IoBuf::with_len((count * SECTOR) as usize);
    fill(&mut buf, first, tag);
    buf
}

/// Sectors that are not zero.
#[derive(Clone, Default)]
pub(crate) struct Content {
    sectors: Rc<BTreeMap<u64, u64>>,
    digest: u64,
}

impl Content {
    pub(crate) fn get(&self, sector: u64) -> u64 {
        self.sectors.get(&sector).copied().unwrap_or(0)
    }

    pub(crate) fn set(&mut self, sector: u64, tag: u64) {
        let old = self.get(sector);
        if old == tag {
            return;
        }
        let map = Rc::make_mut(&mut self.sectors);
        let _before = if tag == 0 { map.remove(&sector) } else { map.insert(sector, tag) };
        self.digest = self.digest.wrapping_sub(digest_of(sector, old)).wrapping_add(digest_of(sector, tag));
    }

    fn clear(&mut self, range: Range<u64>) {
        let found: Vec<u64> = self.sectors.range(range).map(|(s, _)| *s).collect();
        for sector in found {
            self.set(sector, 0);
        }
    }

    pub(crate) fn sectors(&self) -> &BTreeMap<u64, u64> {
        &self.sectors
    }

    /// The first sector of `range` in which the two differ.
    pub(crate) fn difference(&self, other: &Self) -> Option<u64> {
        if self.digest == other.digest {
            return None;
        }
        self.sectors.keys().chain(other.sectors.keys()).find(|s| self.get(**s) != other.get(**s)).copied()
    }
}

/// A snapshot.
#[derive(Clone, Default)]
pub(crate) struct Frozen {
    pub(crate) size: u64,
    pub(crate) content: Content,
}

/// A volume with its snapshots.
#[derive(Clone, Default)]
pub(crate) struct Live {
    pub(crate) size: u64,
    pub(crate) sync: SyncMode,
    pub(crate) content: Content,
    pub(crate) snapshots: BTreeMap<String, Frozen>,
    /// What limits it, as text.
    pub(crate) limits: String,
}

/// All volumes of one client.
#[derive(Clone, Default)]
pub(crate) struct Family {
    pub(crate) volumes: BTreeMap<String, Live>,
}

/// What an operation changes.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    /// Nothing that can be seen.
    None,
    Create {
        name: String,
        size: u64,
        sync: SyncMode,
        /// Whose backup it is filled from, if it is.
        backup: Option<usize>,
    },
    /// Several writes in flight at once: first sector, number of sectors, tag (0: zeros).
    Write {
        volume: String,
        pieces: Vec<(u64, u64, u64)>,
    },
    /// What sectors turned out to hold after writes that overlapped or failed.
    Settled {
        volume: String,
        sectors: Vec<(u64, u64)>,
    },
    /// One moment for several volumes.
    Snapshot {
        taken: Vec<(String, String)>,
    },
    Clone {
        volume: String,
        snapshot: String,
        name: String,
        size: u64,
    },
    Revert {
        volume: String,
        snapshot: String,
    },
    DeleteSnapshot {
        volume: String,
        snapshot: String,
    },
    DeleteVolume {
        name: String,
    },
    Resize {
        name: String,
        size: u64,
    },
    Rename {
        from: String,
        to: String,
    },
    Limit {
        name: String,
        limits: String,
    },
}

impl Effect {
    /// Whether the operation asks for a change (and does not only look).
    pub(crate) fn is_change(&self) -> bool {
        !matches!(self, Self::None | Self::Settled { .. })
    }
}

impl Family {
    pub(crate) fn content(&mut self, volume: &str) -> Option<&mut Content> {
        self.volumes.get_mut(volume).map(|v| &mut v.content)
    }

    fn frozen(&self, volume: &str, snapshot: &str) -> Frozen {
        self.volumes.get(volume).and_then(|v| v.snapshots.get(snapshot)).cloned().unwrap_or_default()
    }

    pub(crate) fn apply(&mut self, effect: &Effect) {
        match effect {
            Effect::None => {}
            Effect::Create { name, size, sync, backup } => {
                let content = backup.map(|family| restore::content(family, *size)).unwrap_or_default();
                let _new =
                    self.volumes.insert(name.clone(), Live { size: *size, sync: *sync, content, ..Live::default() });
            }
            Effect::Write { volume, pieces } => {
                let Some(content) = self.content(volume) else { return };
                for &(first, count, tag) in pieces {
                    if tag == 0 {
                        content.clear(first..first + count);
                    } else {
                        (first..first + count).for_each(|s| content.set(s, tag));
                    }
                }
            }
            Effect::Settled { volume, sectors } => {
                let Some(content) = self.content(volume) else { return };
                for &(sector, tag) in sectors {
                    content.set(sector, tag);
                }
            }
            Effect::Snapshot { taken } => {
                for (volume, name) in taken {
                    if let Some(live) = self.volumes.get_mut(volume) {
                        let frozen = Frozen { size: live.size, content: live.content.clone() };
                        let _new = live.snapshots.insert(name.clone(), frozen);
                    }
                }
            }
            Effect::Clone { volume, snapshot, name, size } => {
                let sync = self.volumes.get(volume).map(|v| v.sync).unwrap_or_default();
                let content = self.frozen(volume, snapshot).content;
                let clone = Live { size: *size, sync, content, ..Live::default() };
                let _new = self.volumes.insert(name.clone(), clone);
            }
            Effect::Revert { volume, snapshot } => {
                let Frozen { size, content } = self.frozen(volume, snapshot);
                if let Some(live) = self.volumes.get_mut(volume) {
                    (live.size, live.content) = (size, content);
                }
            }
            Effect::DeleteSnapshot { volume, snapshot } => {
                if let Some(live) = self.volumes.get_mut(volume) {
                    let _gone = live.snapshots.remove(snapshot);
                }
            }
            Effect::DeleteVolume { name } => drop(self.volumes.remove(name)),
            Effect::Resize { name, size } => {
                if let Some(live) = self.volumes.get_mut(name) {
                    live.size = *size;
                }
            }
            Effect::Rename { from, to } => {
                if let Some(live) = self.volumes.remove(from) {
                    let _new = self.volumes.insert(to.clone(), live);
                }
            }
            Effect::Limit { name, limits } => {
                if let Some(live) = self.volumes.get_mut(name) {
                    live.limits.clone_from(limits);
                }
            }
        }
    }

    /// A number that differs (as good as) always when anything differs.
    pub(crate) fn digest(&self) -> u64 {
        let text = |s: &str| s.bytes().fold(1, |d, b| mix(d ^ u64::from(b)));
        let mut digest = 0u64;
        for (name, live) in &self.volumes {
            let volume = mix(text(name) ^ mix(live.size ^ mix(live.content.digest)));
            digest = digest.wrapping_add(volume).wrapping_add(mix(text(name) ^ text(&live.limits)));
            for (snapshot, frozen) in &live.snapshots {
                let frozen = mix(text(snapshot) ^ mix(frozen.size ^ mix(frozen.content.digest)));
                digest = digest.wrapping_add(mix(volume.wrapping_sub(mix(live.content.digest)) ^ frozen ^ text(name)));
            }
        }
        digest
    }

    /// In what the two differ, for people.
    pub(crate) fn explain(&self, other: &Self) -> String {
        for name in self.volumes.keys().chain(other.volumes.keys()) {
            let (Some(a), Some(b)) = (self.volumes.get(name), other.volumes.get(name)) else {
                return format!(
                    "volume {name} is in one of them only (expected: {})",
                    other.volumes.contains_key(name)
                );
            };
            if a.size != b.size {
                return format!("volume {name} has {} bytes, expected {}", a.size, b.size);
            }
            if a.limits != b.limits {
                return format!("volume {name} is limited by {:?}, expected {:?}", a.limits, b.limits);
            }
            if let Some(s) = a.content.difference(&b.content) {
                return format!("volume {name}, sector {s}: {:#x}, expected {:#x}", a.content.get(s), b.content.get(s));
            }
            for snapshot in a.snapshots.keys().chain(b.snapshots.keys()) {
                let (Some(x), Some(y)) = (a.snapshots.get(snapshot), b.snapshots.get(snapshot)) else {
                    return format!(
                        "snapshot {name}@{snapshot} is in one of them only (expected: {})",
                        b.snapshots.contains_key(snapshot)
                    );
                };
                if x.size != y.size {
                    return format!("snapshot {name}@{snapshot} has {} bytes, expected {}", x.size, y.size);
                }
                if let Some(s) = x.content.difference(&y.content) {
                    return format!(
                        "snapshot {name}@{snapshot}, sector {s}: {:#x}, expected {:#x}",
                        x.content.get(s),
                        y.content.get(s)
                    );
                }
            }
        }
        "no difference found".to_owned()
    }

    /// Whether `self` lies between `before` and what `effect` makes of it: each sector old or new, all else old.
    pub(crate) fn is_between(&self, before: &Self, effect: &Effect) -> bool {
        let Effect::Write { volume, pieces } = effect else { return false };
        let (Some(mine), Some(old)) = (self.volumes.get(volume), before.volumes.get(volume)) else { return false };
        let touched = |s: u64| pieces.iter().filter(move |(first, count, _)| (*first..first + count).contains(&s));
        for sector in mine.content.sectors().keys().chain(old.content.sectors().keys()) {
            let (now, was) = (mine.content.get(*sector), old.content.get(*sector));
            if now != was && !touched(*sector).any(|(_, _, tag)| *tag == now) {
                return false;
            }
        }
        let mut rest = self.clone();
        if let Some(live) = rest.volumes.get_mut(volume) {
            live.content = old.content.clone();
        }
        rest.digest() == before.digest()
    }
}
