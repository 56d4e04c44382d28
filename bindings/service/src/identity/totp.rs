//! One-time passwords by the clock (RFC 6238): six digits, 30 seconds, HMAC-SHA-1, as all devices know them.

use std::ops::RangeInclusive;

use hmac::{Hmac, Mac};
use sha1::Sha1;

use crate::fault::{Answer, Fault};

/// How long a code stands, in seconds.
const STEP: u64 = 30;
const DIGITS: usize = 6;
/// Lengths of a key, in bytes. 80 bits are the least that is in use; RFC 4226 asks for 128, and recommends 160.
const KEY: RangeInclusive<usize> = 10..=128;

/// Bytes of a text in base 32 (RFC 4648), as people and clients write it: capitals or not, spaced or not, padded or not.
pub(super) fn key(text: &str) -> Answer<Vec<u8>> {
    let wrong = || {
        let (least, most) = (KEY.start(), KEY.end());
        Fault::bad(format!(
            "the key of one-time passwords has to be {least} to {most} bytes in base 32 (A to Z, 2 to 7)"
        ))
    };
    let (mut bytes, mut gathered, mut bits) = (Vec::new(), 0_u32, 0_u32);
    for character in text.trim_end_matches('=').bytes().filter(|byte| !byte.is_ascii_whitespace()) {
        let value = match character.to_ascii_uppercase() {
            letter @ b'A'..=b'Z' => letter - b'A',
            digit @ b'2'..=b'7' => digit - b'2' + 26,
            _ => return Err(wrong()),
        };
        gathered = (gathered << 5 | u32::from(value)) & 0xfff;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push((gathered >> bits) as u8);
        }
        if bytes.len() > *KEY.end() {
            return Err(wrong());
        }
    }
    if KEY.contains(&bytes.len()) { Ok(bytes) } else { Err(wrong()) }
}

/// The code of a step.
fn code(key: &[u8], step: u64) -> String {
    let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(key) else { return String::new() };
    mac.update(&step.to_be_bytes());
    let hash = mac.finalize().into_bytes();
    let at = usize::from(hash.last().copied().unwrap_or_default() & 15);
    let four = hash.get(at..at + 4).and_then(|four| four.try_into().ok()).unwrap_or_default();
    let number = (u32::from_be_bytes(four) & 0x7fff_ffff) % 10_u32.pow(DIGITS as u32);
    format!("{number:0DIGITS$}")
}

/// The step of which this is the code, at a moment in seconds since 1970: the one of now, or one beside it, since clocks differ. None that
/// is not later than `last`.
pub(super) fn step_of(key: &[u8], passcode: &str, now_s: u64, last: u64) -> Option<u64> {
    let now = now_s / STEP;
    let mut found = None;
    for step in now.saturating_sub(1)..=now.saturating_add(1) {
        // Hashes are compared in one time, whatever they are.
        let same = blake3::hash(code(key, step).as_bytes()) == blake3::hash(passcode.as_bytes());
        if same && step > last && found.is_none() {
            found = Some(step);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const RFC: &[u8] = b"12345678901234567890";

    #[test]
    fn codes_are_those_of_the_standard() {
        // RFC 6238, appendix B, the last six digits.
        for (at, expected) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(code(RFC, at / STEP), expected, "{at}");
            assert_eq!(step_of(RFC, expected, at, 0), Some(at / STEP));
        }
    }

    #[test]
    fn a_code_is_taken_near_its_time_and_once() {
        let at = 1_111_111_109;
        let step = at / STEP;
        for (now, taken) in [(at - 60, false), (at - 30, true), (at, true), (at + 30, true), (at + 60, false)] {
            assert_eq!(step_of(RFC, "081804", now, 0).is_some(), taken, "{now}");
        }
        assert_eq!((step_of(RFC, "081804", at, step), step_of(RFC, "081804", at, step - 1)), (None, Some(step)));
        assert_eq!((step_of(RFC, "", at, 0), step_of(RFC, "81804", at, 0)), (None, None));
        assert_eq!(step_of(RFC, "000000", 0, 0), None);
    }

    #[test]
    fn keys_are_read_as_people_write_them() {
        for text in [
            "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ",
            "gezd gnbv gy3t qojq gezd gnbv gy3t qojq",
            "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ====",
        ] {
            assert_eq!(key(text).unwrap(), RFC, "{text}");
        }
        for wrong in ["", "GEZDGNBV", "1EZDGNBVGY3TQOJQ", "GEZDGNBVGY3TQOJ!", "ééééééééééééééééé", &"A".repeat(300)]
        {
            assert!(key(wrong).is_err(), "{wrong}");
        }
    }
}
