use crate::{client::*, fixture::*};
use cairn_nbd::protocol::*;

#[test]
fn volumes_and_snapshots_are_listed_and_opened() {
    let fixture = Fixture::new();
    fixture.snapshot("monday");
    let mut client = fixture.client();
    let names: Vec<_> =
        client.option(OPT_LIST, &[]).into_iter().filter(|r| r.kind == REP_SERVER).map(|r| r.data).collect();
    assert!(names[0].starts_with(&string("db")) && names[1].starts_with(&string("db@monday")), "{names:?}");
    assert_eq!(client.outcome(OPT_GO, &info("nothing", &[])), REP_ERR_UNKNOWN);
    assert_eq!(client.outcome(OPT_INFO, &info("bad/name", &[])), REP_ERR_UNKNOWN);
    assert_eq!(fixture.attached(), 0);
    let client = client.go("");
    assert_eq!((client.size, client.flags & TRANSMIT_READ_ONLY), (SIZE, 0), "the only volume is the default export");
    assert_eq!(fixture.attached(), 1);
    let info = &fixture.server.clients()[0];
    assert_eq!((info.export.as_deref(), info.tls), (Some("db"), false));
    assert!(info.peer.contains(&std::process::id().to_string()), "{}", info.peer);
    let snapshot = fixture.client().go("db@monday");
    assert!(snapshot.flags & TRANSMIT_READ_ONLY != 0);
}

#[test]
fn export_name_works_for_old_clients() {
    let fixture = Fixture::new();
    fixture.write(4096, &[9; 512]);
    let mut client = fixture.client();
    client.send(&option_bytes(OPT_EXPORT_NAME, b"db"));
    assert_eq!(client.bytes::<8>(), SIZE.to_be_bytes());
    client.bytes::<2>();
    assert_eq!(client.read(4096, 512), [9; 512]);
    client.disconnect();
    let mut unlucky = fixture.client();
    unlucky.send(&option_bytes(OPT_EXPORT_NAME, b"nothing"));
    assert!(unlucky.is_closed());
}

#[test]
fn options_arrive_in_one_packet_with_requests_behind_them() {
    let fixture = Fixture::new();
    fixture.write(0, &[3; 4096]);
    let mut client = fixture.client();
    client.style = ReplyStyle::Structured;
    let mut bytes = option_bytes(OPT_STRUCTURED_REPLY, &[]);
    bytes.extend(option_bytes(OPT_GO, &info("db", &[])));
    let (read, _) = client.request(CMD_READ, 0, 0, 4096, &[]);
    bytes.extend(read);
    client.send(&bytes);
    assert_eq!(client.option_reply(OPT_STRUCTURED_REPLY).kind, REP_ACK);
    while client.option_reply(OPT_GO).kind != REP_ACK {}
    assert_eq!(client.answer(&|_| (0, 4096)).1.data, [3; 4096]);
}
