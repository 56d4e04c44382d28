//! The version table: 4 KiB pages of version records, referred to by a tree of pointers whose root is in the superblock.
//!
//! ```text
//! page:   number of records (u16), then the records, then zeros
//! sheet:  length of the rest (u16), number (u64), two zeros (u64 each), 6 (u8), and what `format::sheet` has
//! record: length of the rest (u16), id, volume, parent (u64 each, parent 0: none), state (u8), options (u8), depth (u8), flags (u8: 1 recount),
//!         epoch (u32), floor (u32), size (u64), root (16), data blocks (u64), cursor (u64), deletion number (u64),
//!         created (u64), name (u16 length + UTF-8)
//! ```

use super::{State, Version};
use crate::{
    error::{Result, corrupt},
    format::{
        bytes::{Put, Reader},
        pointer::Pointer,
        record::{options_code, options_of},
        sheet::{MAX_SHEET, Sheet},
    },
    storage::buffer::IoBuf,
    units::{BLOCK_SIZE, Epoch, VersionId, VolumeId},
};

/// Bytes of a page that records may fill.
pub(crate) const PAGE_CAPACITY: usize = BLOCK_SIZE - 2;
const FIXED: usize = 2 + 3 * 8 + 4 + 4 + 4 + 8 + 16 + 4 * 8 + 2;

/// Bytes of a sheet's record in front of what it says.
const SHEET_HEAD: usize = 2 + 3 * 8 + 1;
/// In the place of a version's state.
const SHEET: u8 = 6;
/// What a page holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    pub(crate) versions: Vec<Version>,
    pub(crate) sheets: Vec<(VersionId, Sheet)>,
}

/// Bytes that a sheet takes in a page.
pub(crate) fn sheet_len(sheet: &Sheet) -> usize {
    let mut bytes = Vec::with_capacity(MAX_SHEET);
    sheet.encode(&mut bytes);
    SHEET_HEAD + bytes.len()
}

/// Bytes that `version` takes in a page.
pub(crate) fn encoded_len(version: &Version) -> usize {
    FIXED + version.name.len()
}

fn state_code(state: State) -> u8 {
    match state {
        State::Live => 1,
        State::Snapshot => 2,
        State::Deleting => 3,
        State::Branch => 4,
        State::Detached => 5,
    }
}

fn state(code: u8) -> Option<State> {
    Some(match code {
        1 => State::Live,
        2 => State::Snapshot,
        3 => State::Deleting,
        4 => State::Branch,
        5 => State::Detached,
        _ => return None,
    })
}

/// Encodes a page; what it holds must fit (see [`encoded_len`] and [`sheet_len`]).
pub(crate) fn encode_page(page: &Page) -> IoBuf {
    let mut out = Vec::with_capacity(BLOCK_SIZE);
    out.put_u16((page.versions.len() + page.sheets.len()) as u16);
    for v in &page.versions {
        let start = out.len();
        out.put_u16((encoded_len(v) - 2) as u16);
        out.put_u64(v.id.0);
        out.put_u64(v.volume.0);
        out.put_u64(v.parent.map_or(0, |p| p.0));
        out.put_u8(state_code(v.state));
        out.put_u8(options_code(&v.options));
        out.put_u8(v.depth as u8);
        out.put_u8(u8::from(v.recount));
        out.put_u32(v.epoch.0);
        out.put_u32(v.floor.0);
        out.put_u64(v.size);
        out.extend_from_slice(&v.root.to_bytes());
        out.put_u64(v.data_blocks);
        out.put_u64(v.cursor);
        out.put_u64(v.deletion);
        out.put_u64(v.created_ms);
        out.put_string(&v.name);
        debug_assert_eq!(out.len() - start, encoded_len(v));
    }
    for (entry, sheet) in &page.sheets {
        out.put_u16((sheet_len(sheet) - 2) as u16);
        out.put_u64(entry.0);
        out.put_u64(0);
        out.put_u64(0);
        out.put_u8(SHEET);
        sheet.encode(&mut out);
    }
    debug_assert!(out.len() <= BLOCK_SIZE);
    out.resize(BLOCK_SIZE, 0);
    IoBuf::from(out.as_slice())
}

/// Decodes page number `page` of the table.
pub(crate) fn decode_page(bytes: &[u8], page: u64) -> Result<Page> {
    let bad = || corrupt(format!("page {page} of the version table does not hold version records"));
    let mut r = Reader::new(bytes);
    let count = r.u16().ok_or_else(bad)?;
    let mut found = Page::default();
    for _ in 0..count {
        let len = r.u16().ok_or_else(bad)?;
        let record = r.bytes(usize::from(len)).ok_or_else(bad)?;
        match record.get(SHEET_HEAD - 3) {
            Some(&SHEET) => found.sheets.push(decode_sheet(&mut Reader::new(record)).ok_or_else(bad)?),
            _ => found.versions.push(decode_version(&mut Reader::new(record)).ok_or_else(bad)?),
        }
    }
    Ok(found)
}

fn decode_sheet(r: &mut Reader<'_>) -> Option<(VersionId, Sheet)> {
    let entry = VersionId(r.u64().filter(|id| *id != 0)?);
    let (0, 0, SHEET) = (r.u64()?, r.u64()?, r.u8()?) else { return None };
    let sheet = Sheet::decode(r)?;
    (r.is_empty() && !sheet.is_empty()).then_some((entry, sheet))
}

fn decode_version(r: &mut Reader<'_>) -> Option<Version> {
    let id = VersionId(r.u64()?);
    let volume = VolumeId(r.u64()?);
    let parent = Some(r.u64()?).filter(|&p| p != 0).map(VersionId);
    let state = state(r.u8()?)?;
    let options = options_of(r.u8()?)?;
    let depth = u32::from(r.u8()?);
    let recount = r.u8()? & 1 != 0;
    let epoch = Epoch(r.u32()?);
    let floor = Epoch(r.u32()?);
    let size = r.u64()?;
    let root = Pointer::from_bytes(*r.bytes(16)?.first_chunk()?);
    let version = Version {
        id,
        volume,
        parent,
        state,
        options,
        depth,
        recount,
        epoch,
        floor,
        size,
        root,
        data_blocks: r.u64()?,
        cursor: r.u64()?,
        deletion: r.u64()?,
        created_ms: r.u64()?,
        name: r.string()?.to_owned(),
    };
    let sound = (1..=6).contains(&depth) && root.is_sound(depth);
    sound.then_some(version)
}

/// A node of the table's own pointer tree: 256 pointers.
pub(crate) fn encode_pointers(pointers: &[Pointer]) -> IoBuf {
    let mut out = IoBuf::zeroed(BLOCK_SIZE);
    for (slot, pointer) in out.chunks_exact_mut(16).zip(pointers) {
        slot.copy_from_slice(&pointer.to_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::sheet::Owner;

    #[test]
    fn pages_round_trip_and_nonsense_is_refused() {
        let mut v = Version::new_volume(VersionId(3), VolumeId(2), "some-volume", 1 << 30, 17, Default::default());
        v.parent = Some(VersionId(1));
        v.options.filling = true;
        let mut sheet = Sheet::new(Owner::Volume(VolumeId(2)));
        sheet.group = Some("gold".to_owned());
        let full = Page { versions: vec![v.clone(), v.clone()], sheets: vec![(VersionId(4), sheet)] };
        let page = encode_page(&full);
        let back = decode_page(&page, 0).unwrap();
        assert_eq!(format!("{back:?}"), format!("{full:?}"));
        for at in [0, 2, 28] {
            let mut bad = IoBuf::from(&page[..]);
            bad[at..at + 4].fill(0xff);
            assert!(decode_page(&bad, 0).is_err(), "at {at}");
        }
        assert!(decode_page(&page[..60], 0).is_err());
    }
}
