//! Sizes and offsets as people write and read them: `10GiB`, `512MiB`, `10G`, `1.5TiB`, `4096`.
//!
//! Units are binary. Decimal ones (`GB`) are refused and not guessed at: a volume 7 % smaller than meant is found too late.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::fmt;

/// Letters of the units above bytes, each 1,024 times the one before.
const UNITS: &str = "KMGTPE";

/// Why a text is no size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeError(String);

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SizeError {}

/// Bytes that `text` stands for. Units in either case, with or without `iB`; a fraction must come out at whole bytes.
///
/// ```
/// use cairn_cli::size::parse;
/// assert_eq!(parse("10GiB"), Ok(10 << 30));
/// assert_eq!(parse("10g"), parse("10 GiB"));
/// assert_eq!(parse("1.5K"), Ok(1536));
/// assert_eq!(parse("4096"), Ok(4096));
/// assert!(parse("10GB").is_err());
/// ```
///
/// # Errors
/// The text is no number with a unit, is not a whole number of bytes, or does not fit into 64 bits.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let trimmed = text.trim_ascii();
    let end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(end);
    let shift = shift_of(unit.trim_ascii_start()).map_err(|why| SizeError(format!("\"{text}\": {why}")))?;
    let (whole, fraction) = match number.split_once('.') {
        Some((_, "")) | Some(("", _)) => return Err(not_a_size(text)),
        Some(parts) => parts,
        None => (number, ""),
    };
    let whole: u128 = whole.parse().map_err(|_| not_a_size(text))?;
    let bytes = whole.checked_shl(shift).filter(|bytes| bytes >> shift == whole);
    let bytes = bytes.and_then(|bytes| bytes.checked_add(fraction_of(fraction, shift)?));
    match bytes.map(u64::try_from) {
        Some(Ok(bytes)) => Ok(bytes),
        Some(Err(_)) => Err(SizeError(format!("\"{text}\" is more than 64 bits hold"))),
        None => Err(SizeError(format!("\"{text}\" is not a whole number of bytes that 64 bits hold"))),
    }
}

fn not_a_size(text: &str) -> SizeError {
    SizeError(format!("\"{text}\" is not a size: write bytes (4096) or a number with a unit (512MiB, 10GiB, 1TiB)"))
}

/// Powers of two that a unit stands for.
fn shift_of(unit: &str) -> Result<u32, String> {
    let mut letters = unit.chars();
    let first = match letters.next() {
        None => return Ok(0),
        Some(first) => first.to_ascii_uppercase(),
    };
    let rest = letters.as_str();
    if first == 'B' && rest.is_empty() {
        return Ok(0);
    }
    let Some(power) = UNITS.find(first) else {
        return Err(format!("unknown unit \"{unit}\": use B, KiB, MiB, GiB or TiB"));
    };
    if rest.is_empty() || rest.eq_ignore_ascii_case("ib") {
        return Ok(10 * (power as u32 + 1));
    }
    if rest.eq_ignore_ascii_case("b") {
        return Err(format!("\"{unit}\" could mean powers of 1000 or of 1024: write {first}iB, or plain bytes"));
    }
    Err(format!("unknown unit \"{unit}\": use B, KiB, MiB, GiB or TiB"))
}

/// Bytes in `0.digits` of a unit; `None` when they are not whole.
fn fraction_of(digits: &str, shift: u32) -> Option<u128> {
    if digits.is_empty() {
        return Some(0);
    }
    if digits.len() > 18 {
        return None;
    }
    let scale = 10u128.checked_pow(digits.len() as u32)?;
    let scaled = digits.parse::<u128>().ok()?.checked_shl(shift)?;
    scaled.is_multiple_of(scale).then_some(scaled / scale)
}

/// Shows bytes with three digits and a binary unit.
///
/// ```
/// use cairn_cli::size::Bytes;
/// assert_eq!(Bytes(10 << 30).to_string(), "10 GiB");
/// assert_eq!(Bytes(1536).to_string(), "1.5 KiB");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&in_units(self.0))
    }
}

fn in_units(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = None;
    for letter in UNITS.chars() {
        // What would be shown as 1000 or more of a unit becomes a part of the next one.
        if value < 999.5 || bytes < 1024 {
            break;
        }
        value /= 1024.0;
        unit = Some(letter);
    }
    let Some(unit) = unit else { return format!("{bytes} B") };
    let decimals = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    let number = format!("{value:.decimals$}");
    let number = if decimals > 0 { number.trim_end_matches('0').trim_end_matches('.') } else { &number };
    format!("{number} {unit}iB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_binary_in_any_spelling() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("1K", 1 << 10),
            ("1KiB", 1 << 10),
            ("64kib", 64 << 10),
            ("512MiB", 512 << 20),
            ("10G", 10 << 30),
            (" 10 GiB ", 10 << 30),
            ("64TiB", 64 << 40),
            ("1P", 1 << 50),
            ("15E", 15 << 60),
            ("1.5GiB", 3 << 29),
            ("0.25K", 256),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            " ",
            "G",
            "-1",
            "+1",
            "1..5G",
            "1.G",
            ".5G",
            ".",
            "1e3",
            "0x10",
            "10GB",
            "10Gi",
            "10GiBs",
            "ten",
            "1.1G",
            "0.5",
            "16E",
            "18446744073709551616",
            "99999999999999999999999999999999999999999999",
            "1\u{a0}G",
            "１G",
            "340282366920938463463374607431768211455E",
            "1.0000000000000000000G",
        ] {
            assert!(parse(text).is_err(), "{text:?} gave {:?}", parse(text));
        }
    }

    #[test]
    fn refusals_name_the_text_and_the_remedy() {
        assert!(parse("10GB").unwrap_err().to_string().contains("GiB"));
        assert!(parse("much").unwrap_err().to_string().contains("\"much\""));
    }

    #[test]
    fn shown_with_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (4096, "4 KiB"),
            (1_048_575, "1 MiB"),
            (1 << 20, "1 MiB"),
            ((1 << 30) - 1, "1 GiB"),
            (10 << 30, "10 GiB"),
            (1_234_567_890, "1.15 GiB"),
            (64 << 40, "64 TiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text, "{bytes}");
        }
    }
}
