//! Sectors that tell where they belong and who wrote them.
//!
//! A sector is known by its *tag*, the number of the write that made it; 0 stands for zeros. The bytes are a function of
//! tag and place, so that a sector that comes back elsewhere, or in parts, is noticed.

/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// The number of the write that made a sector; 0 for zeros.
pub type Tag = u64;

/// Mixes the bits of a number (the finaliser of SplitMix64).
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Fills the sector at `index` of its volume.
pub fn fill(sector: &mut [u8], index: u64, tag: Tag) {
    if tag == 0 {
        sector.fill(0);
        return;
    }
    let seed = mixed(tag ^ mixed(index.wrapping_add(0x9e37_79b9_7f4a_7c15)));
    for (word, number) in sector.chunks_exact_mut(8).zip(0u64..) {
        let value = if number == 0 { tag } else { seed.wrapping_add(mixed(number)) };
        word.copy_from_slice(&value.to_le_bytes());
    }
}

/// Bytes of `sectors` sectors from `first` on, all made by one write.
#[must_use]
pub fn bytes(first: u64, sectors: u64, tag: Tag) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(sectors).expect("tests write less than memory holds") * SECTOR];
    for (sector, index) in bytes.chunks_exact_mut(SECTOR).zip(first..) {
        fill(sector, index, tag);
    }
    bytes
}

/// Which write made the sector at `index`.
///
/// # Errors
/// No write can have: what is wrong with it.
pub fn tag_of(sector: &[u8], index: u64) -> Result<Tag, String> {
    let Some(first) = sector.first_chunk::<8>() else {
        return Err(format!("sector {index} has only {} bytes", sector.len()));
    };
    let tag = u64::from_le_bytes(*first);
    let mut expected = [0; SECTOR];
    fill(&mut expected, index, tag);
    if sector == expected {
        return Ok(tag);
    }
    let wrong = sector.iter().zip(&expected).position(|(a, b)| a != b).unwrap_or(sector.len());
    Err(format!("sector {index} starts as if made by write {tag}, but differs from byte {wrong} on"))
}

/// Which writes made the sectors of `bytes`, the first of which is at `first`.
///
/// # Errors
/// What is wrong with a sector that no write can have made.
pub fn tags_of(bytes: &[u8], first: u64) -> Result<Vec<Tag>, String> {
    bytes.chunks(SECTOR).zip(first..).map(|(sector, index)| tag_of(sector, index)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_know_their_place_and_their_writer() {
        let made = bytes(7, 3, 42);
        assert_eq!(tags_of(&made, 7), Ok(vec![42; 3]));
        assert!(tags_of(&made, 8).is_err(), "another place");
        assert_eq!(tags_of(&[0; 1024], 5), Ok(vec![0, 0]));
        let mut torn = made.clone();
        torn[SECTOR - 1] ^= 1;
        assert!(tag_of(&torn[..SECTOR], 7).unwrap_err().contains("byte 511"));
        assert!(tag_of(&made[..100], 7).is_err());
    }
}
