use super::super::{numbers::*, *};
use proptest::prelude::*;

const SIZE: u64 = 1 << 30;

fn rules(style: ReplyStyle) -> Rules {
    Rules { style, size: SIZE, read_only: false, max_request: MAX_PAYLOAD, contexts: true }
}

fn request(command: u16, flags: u16, offset: u64, length: u64) -> Request {
    Request { flags, command, id: RequestId { cookie: 7, offset }, length }
}

fn errno(request: Request, rules: Rules) -> u32 {
    check(&request, &rules).unwrap_err().errno
}

#[test]
fn headers_of_both_styles() {
    let mut compact = REQUEST_MAGIC.to_be_bytes().to_vec();
    compact.extend_from_slice(&[0, 1, 0, 1]);
    compact.extend_from_slice(&9u64.to_be_bytes());
    compact.extend_from_slice(&4096u64.to_be_bytes());
    let mut extended = compact.clone();
    compact.extend_from_slice(&512u32.to_be_bytes());
    let (parsed, size) = parse_request(&compact, false).unwrap().unwrap();
    assert_eq!(
        (parsed.flags, parsed.command, parsed.id.cookie, parsed.id.offset, parsed.length, size),
        (1, 1, 9, 4096, 512, 28)
    );
    assert_eq!(parsed.payload(false), 512);
    assert_eq!(parse_request(&compact[..27], false), Ok(None));
    assert!(parse_request(&[&compact[..], &[0; 4]].concat(), true).is_err(), "the magic of the other style");

    extended[..4].copy_from_slice(&EXTENDED_REQUEST_MAGIC.to_be_bytes());
    extended.extend_from_slice(&(1u64 << 40).to_be_bytes());
    extended[7] = CMD_TRIM as u8;
    let (parsed, size) = parse_request(&extended, true).unwrap().unwrap();
    assert_eq!((parsed.length, size, parsed.payload(true)), (1 << 40, 32, 0));
    assert_eq!(Request { flags: CMD_FLAG_PAYLOAD_LEN, ..parsed }.payload(true), 1 << 40);
}

#[test]
fn ranges_give_the_error_of_their_command() {
    let rules = rules(ReplyStyle::Structured);
    for (command, expected) in [
        (CMD_READ, EINVAL),
        (CMD_WRITE, ENOSPC),
        (CMD_TRIM, EINVAL),
        (CMD_WRITE_ZEROES, ENOSPC),
        (CMD_CACHE, EINVAL),
        (CMD_BLOCK_STATUS, EINVAL),
    ] {
        assert_eq!(errno(request(command, 0, SIZE - 512, 1024), rules), expected, "{command} beyond the end");
        assert_eq!(errno(request(command, 0, u64::MAX - 511, 4096), rules), expected, "{command} wrapping around");
        assert_eq!(errno(request(command, 0, 1, 512), rules), EINVAL, "{command} unaligned offset");
        assert_eq!(errno(request(command, 0, 0, 511), rules), EINVAL, "{command} unaligned length");
        assert!(check(&request(command, 0, SIZE - 512, 512), &rules).is_ok(), "{command} at the end");
    }
}

#[test]
fn flags_belong_to_their_commands() {
    let structured = rules(ReplyStyle::Structured);
    let simple = rules(ReplyStyle::Simple);
    assert_eq!(
        check(&request(CMD_READ, CMD_FLAG_DF, 0, 512), &structured),
        Ok(Command::Read { length: 512, whole: true })
    );
    assert_eq!(errno(request(CMD_READ, CMD_FLAG_DF, 0, 512), simple), EINVAL);
    assert_eq!(
        check(&request(CMD_WRITE, CMD_FLAG_FUA, 0, 512), &simple),
        Ok(Command::Write { length: 512, fua: true })
    );
    assert!(check(&request(CMD_READ, CMD_FLAG_FUA, 0, 512), &simple).is_ok(), "FUA is allowed everywhere");
    assert_eq!(errno(request(CMD_TRIM, CMD_FLAG_NO_HOLE, 0, 512), simple), EINVAL);
    assert_eq!(errno(request(CMD_WRITE, CMD_FLAG_PAYLOAD_LEN, 0, 512), structured), EINVAL);
    assert_eq!(errno(request(CMD_READ, 1 << 9, 0, 512), structured), EINVAL);
    assert_eq!(errno(request(8, 0, 4096, 0), structured), EINVAL, "RESIZE is an unmerged extension");
    assert_eq!(errno(request(99, 0, 0, 0), structured), EINVAL);
}

#[test]
fn extended_writes_have_a_payload_even_where_qemu_forgets_the_flag() {
    let rules = rules(ReplyStyle::Extended);
    let forgotten = request(CMD_WRITE, 0, 0, 512);
    assert_eq!(
        (check(&forgotten, &rules), forgotten.payload(true)),
        (Ok(Command::Write { length: 512, fua: false }), 512)
    );
    assert_eq!(
        check(&request(CMD_WRITE, CMD_FLAG_PAYLOAD_LEN, 0, 512), &rules),
        Ok(Command::Write { length: 512, fua: false })
    );
    assert_eq!(errno(request(CMD_READ, CMD_FLAG_PAYLOAD_LEN, 0, 512), rules), EINVAL);
    assert_eq!(errno(request(CMD_READ, 0, 0, 1 << 33), rules), EOVERFLOW);
    assert_eq!(check(&request(CMD_TRIM, 0, 0, SIZE), &rules), Ok(Command::Trim { length: SIZE, fua: false }));
}

#[test]
fn sizes_and_read_only_are_kept() {
    let mut rules = rules(ReplyStyle::Simple);
    assert_eq!(errno(request(CMD_WRITE, 0, 0, u64::from(MAX_PAYLOAD) + 512), rules), EINVAL);
    assert_eq!(errno(request(CMD_FLUSH, 0, 512, 0), rules), EINVAL);
    assert_eq!(check(&request(CMD_FLUSH, CMD_FLAG_FUA, 0, 0), &rules), Ok(Command::Flush));
    rules.read_only = true;
    for command in [CMD_WRITE, CMD_TRIM, CMD_WRITE_ZEROES] {
        assert_eq!(errno(request(command, 0, 0, 512), rules), EPERM);
    }
    assert!(check(&request(CMD_READ, 0, 0, 512), &rules).is_ok());
    assert!(check(&request(CMD_FLUSH, 0, 0, 0), &rules).is_ok());
}

#[test]
fn fast_zero_needs_a_whole_block() {
    let rules = rules(ReplyStyle::Simple);
    let fast = CMD_FLAG_FAST_ZERO;
    assert_eq!(errno(request(CMD_WRITE_ZEROES, fast, 512, 4096), rules), ENOTSUP);
    assert_eq!(errno(request(CMD_WRITE_ZEROES, fast, 0, 3584), rules), ENOTSUP);
    assert!(check(&request(CMD_WRITE_ZEROES, fast | CMD_FLAG_NO_HOLE, 512, 8192), &rules).is_ok());
    assert!(check(&request(CMD_WRITE_ZEROES, 0, 512, 4096), &rules).is_ok());
}

#[test]
fn block_status_needs_contexts_and_a_length() {
    let mut rules = rules(ReplyStyle::Extended);
    assert_eq!(errno(request(CMD_BLOCK_STATUS, 0, 0, 0), rules), EINVAL);
    let one = check(&request(CMD_BLOCK_STATUS, CMD_FLAG_REQ_ONE, 0, 512), &rules);
    assert_eq!(one, Ok(Command::BlockStatus { length: 512, one: true }));
    let filtered = request(CMD_BLOCK_STATUS, CMD_FLAG_PAYLOAD_LEN, 0, 16);
    assert_eq!(check(&filtered, &rules), Ok(Command::FilteredStatus { payload: 16, one: false }));
    for length in [0, 8, 13, 8 + 4 * 17, u64::MAX] {
        assert_eq!(errno(Request { length, ..filtered }, rules), EINVAL, "{length}");
    }
    rules.contexts = false;
    assert_eq!(errno(request(CMD_BLOCK_STATUS, 0, 0, 512), rules), EINVAL);
}

#[test]
fn status_filters_name_each_context_once() {
    let rules = rules(ReplyStyle::Extended);
    let header = request(CMD_BLOCK_STATUS, CMD_FLAG_PAYLOAD_LEN, 4096, 16);
    let payload = |length: u64, ids: &[u32]| {
        let mut out = length.to_be_bytes().to_vec();
        ids.iter().for_each(|id| out.extend_from_slice(&id.to_be_bytes()));
        out
    };
    assert_eq!(
        parse_status_filter(&header, &payload(8192, &[2, 1]), &rules),
        Ok(StatusFilter { length: 8192, ids: vec![2, 1] })
    );
    assert!(parse_status_filter(&header, &payload(8192, &[1, 1]), &rules).is_err());
    assert!(parse_status_filter(&header, &payload(8192, &[]), &rules).is_err());
    assert!(parse_status_filter(&header, &payload(SIZE, &[1]), &rules).is_err(), "beyond the end");
    assert!(parse_status_filter(&header, &payload(0, &[1]), &rules).is_err());
    assert!(parse_status_filter(&header, &[0; 15], &rules).is_err());
}

#[test]
fn replies_match_the_specification_byte_for_byte() {
    let id = RequestId { cookie: 0x0102_0304_0506_0708, offset: 0x1000 };
    let mut out = Vec::new();
    put_success(&mut out, ReplyStyle::Structured, id, false);
    assert_eq!(out, [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    out.clear();
    put_error(&mut out, ReplyStyle::Structured, id, ENOSPC, "full");
    assert_eq!(
        out,
        [&[0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 10, 0, 0, 0, 28, 0, 4][..], b"full"]
            .concat()
    );
    out.clear();
    put_hole(&mut out, ReplyStyle::Extended, id, 512);
    let expected = [
        &[
            0x6e, 0x8a, 0x27, 0x8c, 0, 1, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0,
            12,
        ][..],
        &[0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 2, 0],
    ];
    assert_eq!(out, expected.concat());
    out.clear();
    put_block_status(&mut out, ReplyStyle::Structured, id, 3, &[Descriptor { length: 4096, status: 3 }], true);
    assert_eq!(&out[4..8], [0, 1, 0, 5]);
    assert_eq!(&out[16..], [0, 0, 0, 12, 0, 0, 0, 3, 0, 0, 0x10, 0, 0, 0, 0, 3]);
    out.clear();
    put_error(&mut out, ReplyStyle::Structured, id, EIO, &"ö".repeat(3000));
    assert_eq!(out.len(), 20 + 6 + 1024, "long texts are cut between characters");
}

proptest! {
    #[test]
    fn what_passes_stays_within_the_export(
        flags in 0u16..64, command in 0u16..10, offset: u64, length: u64, narrow: bool, extended: bool
    ) {
        let (offset, length) = if narrow { ((offset % (2 * SIZE)) & !511, (length % (2 * SIZE)) & !511) } else { (offset, length) };
        let rules = rules(if extended { ReplyStyle::Extended } else { ReplyStyle::Structured });
        match check(&request(command, flags, offset, length), &rules) {
            Ok(Command::Read { length: n, .. } | Command::Write { length: n, .. }) => {
                prop_assert!(n <= MAX_PAYLOAD && u64::from(n) == length && offset + length <= SIZE);
            }
            Ok(Command::Trim { .. } | Command::WriteZeroes { .. } | Command::Cache { .. } | Command::BlockStatus { .. }) => {
                prop_assert!(offset % 512 == 0 && length % 512 == 0 && offset + length <= SIZE);
            }
            Ok(Command::FilteredStatus { payload, .. }) => prop_assert!(payload <= 72),
            Ok(Command::Disconnect | Command::Flush) => {}
            Err(refusal) => prop_assert!(refusal.errno != 0 && !refusal.text.is_empty()),
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100), extended: bool) {
        let mut bytes = bytes;
        if let Ok(Some((parsed, _))) = parse_request(&bytes, extended) {
            check(&parsed, &rules(ReplyStyle::Extended)).ok();
        }
        let magic = if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        bytes.splice(0..0, magic.to_be_bytes());
        if let Ok(Some((parsed, size))) = parse_request(&bytes, extended) {
            prop_assert!(size <= bytes.len());
            parse_status_filter(&parsed, &bytes, &rules(ReplyStyle::Extended)).ok();
        }
    }
}
