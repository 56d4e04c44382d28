//! What was set to limit a volume, a group of volumes or the pool, and how much of it was used: an entry of the version table, and a record.
//!
//! ```text
//! owner (u8: 1 pool, 2 group, 3 volume), volume (u64, for a volume) or name (u16 length + UTF-8, for a group)
//! number of limits (u8), each: key (u8: its place in `Limits::KEYS`), value (u64)
//! group that a volume belongs to (u16 length + UTF-8; 0: none), queue depth of a pool (u32; 0: the default)
//! number of credits used (u8), each: key (u8: its place in `Key::ALL`), tokens (u64)
//! ```

use std::collections::BTreeMap;

use cairn_qos::{Key, Limits};

use crate::{
    format::bytes::{Put, Reader},
    units::VolumeId,
};

/// Most bytes of an encoded sheet: names of 128 characters of four bytes, all keys, all credits.
pub(crate) const MAX_SHEET: usize = 1 + 2 + 512 + 1 + 33 * 9 + 2 + 512 + 4 + 1 + 6 * 9;

/// Whose limits they are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Owner {
    Pool,
    Group(String),
    Volume(VolumeId),
}

/// Limits, and what was used of them when that was noted last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Sheet {
    pub(crate) owner: Owner,
    pub(crate) limits: Limits,
    /// Of a volume.
    pub(crate) group: Option<String>,
    /// Of the pool.
    pub(crate) depth: Option<u32>,
    /// Tokens by the names of the limits.
    pub(crate) used: BTreeMap<String, u64>,
}

impl Sheet {
    pub(crate) fn new(owner: Owner) -> Self {
        Self { owner, limits: Limits::none(), group: None, depth: None, used: BTreeMap::new() }
    }

    /// Whether it says nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.limits.is_empty() && self.group.is_none() && self.depth.is_none()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match &self.owner {
            Owner::Pool => out.put_u8(1),
            Owner::Group(name) => {
                out.put_u8(2);
                out.put_string(name);
            }
            Owner::Volume(volume) => {
                out.put_u8(3);
                out.put_u64(volume.0);
            }
        }
        let limit = |name: &str| Limits::KEYS.iter().position(|key| *key == name);
        put_entries(out, self.limits.iter().filter_map(|(name, value)| Some((limit(name)?, value))).collect());
        out.put_string(self.group.as_deref().unwrap_or_default());
        out.put_u32(self.depth.unwrap_or(0));
        let credit = |name: &str| Key::ALL.iter().position(|key| key.name() == name);
        put_entries(out, self.used.iter().filter_map(|(name, used)| Some((credit(name)?, *used))).collect());
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Option<Self> {
        let owner = match r.u8()? {
            1 => Owner::Pool,
            2 => Owner::Group(r.string().filter(|name| !name.is_empty())?.to_owned()),
            3 => Owner::Volume(VolumeId(r.u64()?)),
            _ => return None,
        };
        let mut values = BTreeMap::new();
        for _ in 0..r.u8()? {
            let name = Limits::KEYS.get(usize::from(r.u8()?))?;
            let _old = values.insert((*name).to_owned(), r.u64()?);
        }
        let limits = Limits::try_from(values).ok()?;
        let group = Some(r.string()?).filter(|name| !name.is_empty()).map(str::to_owned);
        let depth = Some(r.u32()?).filter(|depth| *depth != 0);
        let mut used = BTreeMap::new();
        for _ in 0..r.u8()? {
            let key = Key::ALL.get(usize::from(r.u8()?))?;
            let _old = used.insert(key.name().to_owned(), r.u64()?);
        }
        Some(Self { owner, limits, group, depth, used })
    }
}

fn put_entries(out: &mut Vec<u8>, entries: Vec<(usize, u64)>) {
    out.put_u8(entries.len() as u8);
    for (key, value) in entries {
        out.put_u8(key as u8);
        out.put_u64(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sheets_round_trip_and_nonsense_is_refused() {
        let longest = "\u{10ffff}".repeat(128);
        let mut full = Sheet::new(Owner::Group(longest.clone()));
        full.group = Some(longest);
        full.depth = Some(64);
        let rules = "read_iops_sec_per_gb=5 read_iops_sec_per_gb_min=100 read_iops_sec_max=2000 read_iops_sec_max_length=60 weight=3";
        full.limits = rules.parse().unwrap();
        full.used = Key::ALL.iter().map(|key| (key.name().to_owned(), u64::MAX)).collect();
        let mut of_volume = Sheet::new(Owner::Volume(VolumeId(7)));
        of_volume.limits = "total_bytes_sec=1".parse().unwrap();
        for sheet in [full, of_volume, Sheet::new(Owner::Pool)] {
            let mut bytes = Vec::new();
            sheet.encode(&mut bytes);
            assert!(bytes.len() <= MAX_SHEET, "{}", bytes.len());
            let mut r = Reader::new(&bytes);
            assert_eq!(Sheet::decode(&mut r).as_ref(), Some(&sheet));
            assert!(r.is_empty());
            // Miri is slow; elsewhere each.
            for cut in (0..bytes.len()).step_by(if cfg!(miri) { 61 } else { 1 }) {
                assert_eq!(Sheet::decode(&mut Reader::new(&bytes[..cut])), None, "cut at {cut}");
            }
        }
        for bytes in [&[0][..], &[4], &[1, 1, 33, 1, 0, 0, 0, 0, 0, 0, 0], &[1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(Sheet::decode(&mut Reader::new(&[bytes, &[0; 16]].concat())), None, "{bytes:?}");
        }
    }
}
