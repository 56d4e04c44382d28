//! What people type: names, sizes, addresses, command lines.

use cairn_engine::Target;
use cairn_nbd::Listen;
use std::{ffi::OsString, os::unix::ffi::OsStringExt};

/// Names come out as they went in; a plain number is its own size.
pub(crate) fn names_and_sizes(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let target = text.parse::<Target>();
    if let Ok(target) = &target {
        assert_eq!(target.to_string(), text);
        assert!(target.volume.chars().count() <= 128 && !target.volume.is_empty());
        assert!(!target.volume.contains(['@', '/']) && !target.volume.chars().any(char::is_control));
    }
    let size = cairn_cli::size::parse(text);
    if let Ok(bytes) = size {
        assert_eq!(cairn_cli::size::parse(&bytes.to_string()), Ok(bytes));
    }
    target.is_ok() || size.is_ok()
}

/// Words between NUL bytes as a command line, and each as an address to listen on: a refusal says something, to people and as an exit
/// code.
pub(crate) fn cli_arguments(input: &[u8]) -> bool {
    let words: Vec<OsString> = input.split(|&byte| byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
    for address in words.iter().filter_map(|word| word.to_str()?.parse::<Listen>().ok()) {
        assert_eq!(address.to_string().parse::<Listen>().ok().as_ref(), Some(&address));
    }
    match cairn_cli::accepts(std::iter::once("cairn".into()).chain(words)) {
        Ok(()) => true,
        Err(refusal) => {
            assert!(!refusal.to_string().is_empty());
            assert_eq!(refusal.exit_code(), if refusal.use_stderr() { 2 } else { 0 });
            // Help and version are answers.
            !refusal.use_stderr()
        }
    }
}
