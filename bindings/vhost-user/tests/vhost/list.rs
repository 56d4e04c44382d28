//! What is listed is what is served, and what a driver chose stays with its disk.

use crate::{fixture::*, front_end::*};
use cairn_engine::{ErrorKind, VolumeOptions};
use cairn_vhost_user::{Options, Server};
use pollster::block_on;
use std::thread;

impl Fixture {
    fn volume(&self, name: &str) {
        drop(block_on(self.pool.create_volume(name, 1 << 20, VolumeOptions::default())).unwrap());
    }

    /// The exports that the next server is to have.
    fn listed(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.server.directory().join("exports")).unwrap();
        let name = |line: &str| line.strip_prefix("volume ").and_then(|rest| Some(rest.split_once(' ')?.1.to_owned()));
        text.lines().filter_map(name).collect()
    }

    fn served(&self) -> Vec<String> {
        self.server.exports().into_iter().map(|export| export.name).collect()
    }

    fn start_again(&mut self) {
        block_on(async {
            self.server.stop().await.unwrap();
            let options = Options { survive_kill: false, ..Options::default() };
            self.server = Server::start(&self.pool, self.server.directory().to_owned(), options).await.unwrap();
            assert!(self.server.restore().await.unwrap().is_empty());
        });
    }
}

#[test]
fn exporting_and_withdrawing_at_once_leaves_what_is_listed() {
    let fixture = Fixture::new();
    for round in 0..100 {
        let server = fixture.server.clone();
        let withdrawing = thread::spawn(move || block_on(server.withdraw("db", true)).ok());
        block_on(fixture.server.export("db")).ok();
        withdrawing.join().unwrap();
        assert_eq!(fixture.served(), fixture.listed(), "round {round}");
    }
}

#[test]
fn what_cannot_be_listed_is_neither_made_nor_withdrawn() {
    let fixture = Fixture::new();
    fixture.volume("other");
    let (new, socket) = (fixture.server.directory().join("exports.new"), fixture.server.directory().join("other.sock"));
    // In the way of the list.
    std::fs::create_dir(&new).unwrap();
    assert_eq!(block_on(fixture.server.export("other")).unwrap_err().kind(), ErrorKind::Io);
    assert!(!socket.exists());
    assert_eq!(block_on(fixture.server.withdraw("db", false)).unwrap_err().kind(), ErrorKind::Io);
    assert!(fixture.connect().number(GET_FEATURES) > 0, "it serves as before");
    assert_eq!((fixture.served(), fixture.listed()), (vec!["db".into()], vec!["db".into()]));
    std::fs::remove_dir(&new).unwrap();
    assert_eq!(block_on(fixture.server.export("other")).unwrap(), socket);
    block_on(fixture.server.withdraw("db", true)).unwrap();
    assert_eq!((fixture.served(), fixture.listed()), (vec!["other".into()], vec!["other".into()]));
}

/// Guests are told, writes are refused, and no other export of the volume changes that: also not in the next server.
#[test]
fn a_volume_that_is_exported_for_reading_takes_no_writes() {
    const READ_ONLY: u64 = 1 << 5;
    let mut fixture = Fixture::with(Options { survive_kill: false, ..Options::default() });
    let offered = |fixture: &Fixture| {
        eventually("nobody is connected", || fixture.client().is_none());
        fixture.connect().number(GET_FEATURES) & READ_ONLY
    };
    assert_eq!(offered(&fixture), 0);
    let error = block_on(fixture.server.export_read_only("db")).unwrap_err();
    assert!(error.kind() == ErrorKind::Exists && error.to_string().contains("for writing: withdraw"), "{error}");
    block_on(fixture.server.withdraw("db", true)).unwrap();
    for _ in 0..2 {
        fixture.socket = block_on(fixture.server.export_read_only("db")).unwrap();
        assert_eq!(offered(&fixture), READ_ONLY);
    }
    fixture.start_again();
    assert_eq!(offered(&fixture), READ_ONLY, "another server");
    let error = block_on(fixture.server.export("db")).unwrap_err();
    assert!(error.kind() == ErrorKind::Exists && error.to_string().contains("for reading: withdraw"), "{error}");
    block_on(fixture.server.withdraw("db", true)).unwrap();
    fixture.socket = block_on(fixture.server.export("db")).unwrap();
    assert_eq!(offered(&fixture), 0);
}

#[test]
fn names_are_those_of_now_before_those_of_sockets() {
    let mut fixture = Fixture::new();
    for name in ["a", "b"] {
        fixture.volume(name);
        block_on(fixture.server.export(name)).unwrap();
    }
    block_on(async {
        for (from, to) in [("a", "c"), ("b", "a"), ("c", "b")] {
            fixture.pool.rename(from, to).await.unwrap();
        }
    });
    // The volume `a` is served by the socket `b`; and once that is gone, the name is not the other's.
    block_on(fixture.server.withdraw("a", false)).unwrap();
    assert_eq!(fixture.served(), ["a", "db"]);
    let error = block_on(fixture.server.withdraw("a", false)).unwrap_err();
    assert!(error.kind() == ErrorKind::NotFound && error.to_string().contains("serves b"), "{error}");
    fixture.start_again();
    assert_eq!(fixture.served(), ["a", "db"]);
    block_on(fixture.server.withdraw("b", false)).unwrap();
    // The socket's own name does for what was deleted, also when there is another volume of that name.
    fixture.volume("gone");
    block_on(fixture.server.export("gone")).unwrap();
    block_on(fixture.pool.delete_volume("gone", false)).unwrap();
    fixture.volume("gone");
    block_on(fixture.server.withdraw("gone", false)).unwrap();
    assert_eq!((fixture.served(), fixture.listed()), (vec!["db".into()], vec!["db".into()]));
}

/// A driver that switched its cache off does not flush. Its front-end may reconnect, to this server or to the next one or to another socket,
/// and does not switch it off again.
#[test]
fn the_cache_mode_stays_until_the_driver_changes_it() {
    const CONFIG_WCE: u64 = 1 << 11;
    let mut fixture = Fixture::with(Options { survive_kill: false, ..Options::default() });
    let connect = |fixture: &Fixture| {
        eventually("nobody is connected", || fixture.client().is_none());
        let front_end = fixture.connect();
        front_end.agree(FEATURES | CONFIG_WCE);
        front_end
    };
    let choose = |front_end: &FrontEnd, mode: u8| {
        front_end.tell(SET_CONFIG, &[&pair(32, 1)[..], &[0; 4], &[mode]].concat(), &[])
    };
    let front_end = connect(&fixture);
    assert_eq!(front_end.config(32, 1), [1]);
    assert!(choose(&front_end, 0));
    drop(front_end);
    assert_eq!(connect(&fixture).config(32, 1), [0], "connected again");
    fixture.start_again();
    assert_eq!(connect(&fixture).config(32, 1), [0], "another server");
    block_on(fixture.server.withdraw("db", true)).unwrap();
    fixture.start_again();
    fixture.socket = block_on(fixture.server.export("db")).unwrap();
    let front_end = connect(&fixture);
    assert_eq!(front_end.config(32, 1), [0], "another socket");
    // A driver that resets its device finds it as any other.
    front_end.must(RESET_DEVICE, &[], &[]);
    assert_eq!(front_end.config(32, 1), [1]);
    drop(front_end);
    fixture.start_again();
    let front_end = connect(&fixture);
    assert_eq!(front_end.config(32, 1), [1]);
    // What the next server would not know of is not acknowledged, and done all the same.
    std::fs::create_dir(fixture.server.directory().join("exports.new")).unwrap();
    assert!(!choose(&front_end, 0));
    assert_eq!(front_end.config(32, 1), [0]);
}
