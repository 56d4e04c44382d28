//! Names, sizes, metadata and ids: what a request may say.

use std::collections::BTreeMap;

/// Bytes of the unit in which volumes are sized.
pub(crate) const GIB: u64 = 1 << 30;
/// Smallest and largest volume, in GiB.
const SIZES: std::ops::RangeInclusive<u64> = 1..=65_536;
/// Longest name, in characters.
const MAX_NAME: usize = 128;
/// Longest description, key and value of metadata, in characters.
const MAX_TEXT: usize = 255;
/// Most entries of metadata.
const MAX_ENTRIES: usize = 128;
/// Most bytes of metadata, keys and values together: lists show all of it.
const MAX_BYTES: usize = 64 << 10;

/// A name: 1 to 128 characters, none of them a control character. Names need not be unique.
///
/// # Errors
/// The rule that it breaks.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    match name.chars().count() {
        0 => Err("the name is empty: a name has 1 to 128 characters".to_owned()),
        n if n > MAX_NAME => Err(format!("the name has {n} characters: a name has 1 to 128")),
        _ if name.chars().any(char::is_control) => Err("the name contains a control character".to_owned()),
        _ if name.trim().is_empty() => Err("the name is only white space".to_owned()),
        _ => Ok(()),
    }
}

/// A description: at most 255 characters.
///
/// # Errors
/// The rule that it breaks.
pub(crate) fn check_description(text: &str) -> Result<(), String> {
    match text.chars().count() {
        n if n > MAX_TEXT => Err(format!("the description has {n} characters: at most 255 are allowed")),
        _ => Ok(()),
    }
}

/// What a client says of a consumer or a place (a server's id, a host, a device, a container): at most 255 characters.
///
/// # Errors
/// The rule that it breaks.
pub(crate) fn check_label(what: &str, text: &str) -> Result<(), String> {
    match text.chars().count() {
        n if n > MAX_TEXT => Err(format!("{what} has {n} characters: at most 255 are allowed")),
        _ => Ok(()),
    }
}

/// Size of a volume in GiB: 1 to 65536.
///
/// # Errors
/// The rule that it breaks.
pub(crate) fn check_size(gib: u64) -> Result<(), String> {
    match SIZES.contains(&gib) {
        true => Ok(()),
        false => Err(format!("a volume has 1 to 65536 GiB, not {gib}")),
    }
}

/// Metadata: at most 128 entries, keys of 1 to 255 characters, values of at most 255, all together at most 65,536 bytes.
///
/// # Errors
/// The rule that it breaks.
pub(crate) fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), String> {
    check_entries(metadata)?;
    let bytes: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    match bytes <= MAX_BYTES {
        true => Ok(()),
        false => Err(format!("metadata has at most {MAX_BYTES} bytes, keys and values together: {bytes} are too many")),
    }
}

/// Metadata that something has, after a change. What was there before, as of an earlier version, may stay, and less of it too.
///
/// # Errors
/// The rule that it breaks.
pub(crate) fn check_metadata_of(had: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Result<(), String> {
    match now.iter().all(|(key, value)| had.get(key) == Some(value)) {
        true => Ok(()),
        false => check_metadata(now),
    }
}

/// The entries of metadata: at most 128, keys of 1 to 255 characters, values of at most 255.
///
/// # Errors
/// The rule that it breaks.
pub(crate) fn check_entries(metadata: &BTreeMap<String, String>) -> Result<(), String> {
    if metadata.len() > MAX_ENTRIES {
        return Err(format!("{} entries of metadata: at most {MAX_ENTRIES} are allowed", metadata.len()));
    }
    for (key, value) in metadata {
        if key.trim().is_empty() || key.chars().count() > MAX_TEXT {
            return Err("a key of metadata has 1 to 255 characters".to_owned());
        }
        if value.chars().count() > MAX_TEXT {
            return Err(format!("the value of {key:?} has more than 255 characters"));
        }
    }
    Ok(())
}

/// Whether a text has the form of an id: `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
pub(crate) fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, byte)| match i {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// A new random id.
pub(crate) fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_1_to_128_characters() {
        for good in ["a", "ünïcode ✓", &"x".repeat(128), &"é".repeat(128), "a/b@c"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", " ", "a\nb", &"x".repeat(129), "\0"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_are_1_to_65536() {
        assert!([1, 2, 65_536].into_iter().all(|gib| check_size(gib).is_ok()));
        assert!([0, 65_537, u64::MAX].into_iter().all(|gib| check_size(gib).is_err()));
        assert_eq!(65_536 * GIB, cairn_engine::MAX_VOLUME);
    }

    #[test]
    fn metadata_is_bounded() {
        let one = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        assert!(check_metadata(&one("k", "")).is_ok());
        assert!(check_metadata(&one("", "v")).is_err());
        assert!(check_metadata(&one(&"k".repeat(256), "v")).is_err());
        assert!(check_metadata(&one("k", &"v".repeat(256))).is_err());
        assert!(check_metadata(&(0..129).map(|n| (n.to_string(), String::new())).collect()).is_err());
        // Long letters count as the bytes that they have.
        let many = |n: usize| (0..n).map(|n| (format!("{n:04}"), "\u{1f5ff}".repeat(255))).collect::<BTreeMap<_, _>>();
        assert_eq!(check_metadata(&many(64)), Ok(()));
        let fault = check_metadata(&many(65)).unwrap_err();
        assert!(check_entries(&many(65)).is_ok() && fault.contains("at most 65536 bytes"), "{fault}");
        // What is there may stay, and become less; not more, nor something else.
        let (had, changed) = (many(80), one("k", "v").into_iter().chain(many(80)).collect());
        assert_eq!((check_metadata_of(&had, &had), check_metadata_of(&had, &many(79))), (Ok(()), Ok(())));
        assert!(check_metadata_of(&had, &many(81)).is_err() && check_metadata_of(&had, &changed).is_err());
        assert_eq!(check_metadata_of(&had, &one("k", "v")), Ok(()));
        assert!(check_description(&"d".repeat(255)).is_ok() && check_description(&"d".repeat(256)).is_err());
    }

    #[test]
    fn ids_are_uuids_and_differ() {
        let (one, two) = (new_id(), new_id());
        assert!(is_uuid(&one) && is_uuid(&two) && one != two);
        assert!(!is_uuid("") && !is_uuid(&one[1..]) && !is_uuid(&"g".repeat(36)) && !is_uuid(&one.replace('-', "0")));
    }
}
