//! Servers that offer some things, under names of their own.

use crate::{client::*, fixture::*};
use cairn_engine::{Target, VolumeOptions};
use cairn_nbd::{Offer, Offers, Options, protocol::*};
use pollster::block_on;
use std::{
    collections::BTreeMap,
    io::Read,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

/// What is offered now.
#[derive(Debug, Default)]
struct Table(Mutex<BTreeMap<String, Offer>>);

impl Table {
    fn offer(&self, name: &str, target: &str, read_only: bool) {
        let target: Target = target.parse().unwrap();
        drop(self.0.lock().unwrap().insert(name.to_owned(), Offer { target, read_only }));
    }
}

impl Offers for Table {
    fn find(&self, name: &str) -> Option<Offer> {
        self.0.lock().unwrap().get(name).cloned()
    }
}

fn offering() -> (Fixture, Arc<Table>) {
    let table = Arc::new(Table::default());
    let fixture = Fixture::with(Options { offers: Some(table.clone()), ..Options::default() });
    block_on(async {
        drop(fixture.pool.create_volume("other", SIZE, VolumeOptions::default()).await.unwrap());
        let targets = ["db@monday", "other@monday"].map(|target| target.parse::<Target>().unwrap());
        drop(fixture.pool.snapshot(&targets).await.unwrap());
    });
    (fixture, table)
}

#[test]
fn nothing_opens_but_what_is_offered_and_nothing_is_listed() {
    let (fixture, table) = offering();
    table.offer("secret", "db", false);
    for name in ["", "db", "other", "db@monday", "other@monday", "secret@monday", "secre", "secret1"] {
        let mut client = fixture.client().agree_on(ReplyStyle::Structured);
        let replies = client.option(OPT_LIST, &[]);
        assert_eq!(replies.iter().map(|reply| reply.kind).collect::<Vec<_>>(), [REP_ACK]);
        for option in [OPT_GO, OPT_INFO] {
            assert_eq!(client.outcome(option, &info(name, &[])), REP_ERR_UNKNOWN, "{name:?}");
        }
        for option in [OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT] {
            assert_eq!(client.outcome(option, &meta(name, &["base:allocation"])), REP_ERR_UNKNOWN, "{name:?}");
        }
        client.send(&option_bytes(OPT_EXPORT_NAME, name.as_bytes()));
        assert!(client.is_closed(), "{name:?}");
    }
    let mut client = fixture.client().go("secret");
    client.write(0, 0, &[7; 4096]);
    // Those who look after the server learn what it is, and not how to open it.
    assert_eq!(fixture.server.clients().iter().find_map(|one| one.export.clone()).as_deref(), Some("db"));
    client.disconnect();
}

#[test]
fn an_offer_to_read_takes_no_writes() {
    let (fixture, table) = offering();
    table.offer("look", "db", true);
    table.offer("change", "db", false);
    let (mut look, mut change) = (fixture.client().go("look"), fixture.client().go("change"));
    assert!(look.flags & TRANSMIT_READ_ONLY != 0 && change.flags & TRANSMIT_READ_ONLY == 0);
    change.write(0, 0, &[7; 4096]);
    assert_eq!(look.call(CMD_WRITE, 0, 0, 512, &[1; 512]).errno, EPERM);
    assert_eq!(look.call(CMD_TRIM, 0, 0, 4096, &[]).errno, EPERM);
    assert_eq!(look.read(0, 4096), [7; 4096]);
}

#[test]
fn an_offer_leads_to_no_snapshot() {
    let (fixture, table) = offering();
    table.offer("secret", "db", false);
    let mut client = fixture.client().agree_on(ReplyStyle::Structured);
    let listed = client.option(OPT_LIST_META_CONTEXT, &meta("secret", &["cairn:changed-since="]));
    assert_eq!(listed.iter().map(|reply| reply.kind).collect::<Vec<_>>(), [REP_ACK]);
    let all = ["cairn:changed-since=monday", "cairn:changed-since=db@monday", "cairn:changed-since=other@monday"];
    assert_eq!(client.select("secret", &all).len(), 0);
    assert_eq!(client.select("secret", &["base:allocation"]).len(), 1);
}

#[test]
fn who_has_open_what_is_not_offered_any_more_is_cut_off() {
    let (fixture, table) = offering();
    table.offer("one", "db", false);
    table.offer("two", "db", true);
    table.offer("third", "other", false);
    let (mut one, mut two, mut third) =
        (fixture.client().go("one"), fixture.client().go("two"), fixture.client().go("third"));
    table.0.lock().unwrap().retain(|_, offer| offer.target.volume != "db");
    block_on(fixture.server.cut_off("db")).unwrap();
    assert_eq!(fixture.attached(), 0);
    assert!(one.is_closed() && two.is_closed());
    third.write(0, 0, &[1; 4096]);
    assert_eq!(fixture.client().outcome(OPT_GO, &info("one", &[])), REP_ERR_UNKNOWN);
    block_on(fixture.server.cut_off("nothing")).unwrap();
    third.disconnect();
}

/// A client that takes no answers holds what it asked for open before it is past its handshake.
#[test]
fn who_does_not_take_the_answer_that_opens_it_is_cut_off_too() {
    const UNKNOWN: u32 = 99;
    const MANY: usize = 1000;
    let (fixture, table) = offering();
    table.offer("one", "db", false);
    let many = option_bytes(UNKNOWN, &[]).repeat(MANY);
    let answers = MANY * (20 + fixture.client().option(UNKNOWN, &[])[0].data.len());
    // Ever more answers wait for it, until there is no room for the last.
    for times in 0.. {
        let mut stream = fixture.stream();
        let mut client = Client::new(Box::new(stream.try_clone().unwrap()));
        for n in 1..=times {
            client.send(&many);
            eventually("they are answered", || rustix::io::ioctl_fionread(&stream).unwrap() == (n * answers) as u64);
        }
        client.send(&[many.clone(), option_bytes(OPT_GO, &info("one", &[]))].concat());
        eventually("it is open", || fixture.attached() == 1);
        block_on(fixture.server.cut_off("db")).unwrap();
        assert_eq!(fixture.attached(), 0);
        let mut taken = Vec::new();
        drop(stream.read_to_end(&mut taken));
        if taken.len() < (times + 1) * answers {
            return;
        }
    }
}

/// Withdrawn as soon as it was looked up.
#[derive(Debug, Default)]
struct Once(AtomicU32);

impl Offers for Once {
    fn find(&self, _: &str) -> Option<Offer> {
        let target = Target { volume: "db".into(), snapshot: None };
        (self.0.fetch_add(1, Ordering::Relaxed) == 0).then_some(Offer { target, read_only: false })
    }
}

#[test]
fn what_is_withdrawn_during_the_handshake_is_not_served() {
    let fixture = Fixture::with(Options { offers: Some(Arc::new(Once::default())), ..Options::default() });
    assert!(fixture.client().go("any").is_closed());
    eventually("it is let go of", || fixture.attached() == 0 && fixture.server.clients().is_empty());
}
