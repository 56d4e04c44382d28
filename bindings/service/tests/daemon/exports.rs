//! Who may open what over NBD: consumers what is attached to them, for as long as it is; nobody anything else.

use super::harness::{Answer, Daemon, PATIENCE, Place};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::TcpStream,
};

const OPTION: u64 = 0x4948_4156_454f_5054;

/// A consumer that speaks NBD.
struct Consumer(TcpStream);

impl Consumer {
    /// Past the greetings. The address is that of `nbd://HOST:PORT/NAME`.
    fn greeted(url: &str) -> Self {
        let address = url.strip_prefix("nbd://").unwrap().split('/').next().unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_exact(&mut [0; 18]).unwrap();
        stream.write_all(&3_u32.to_be_bytes()).unwrap();
        Self(stream)
    }

    fn option(&mut self, code: u32, data: &[u8]) {
        let length = u32::try_from(data.len()).unwrap();
        let head = [&OPTION.to_be_bytes()[..], &code.to_be_bytes(), &length.to_be_bytes(), data];
        self.0.write_all(&head.concat()).unwrap();
    }

    /// With an export open, if there is one of this name.
    fn of(url: &str, name: &str) -> Option<Self> {
        let mut consumer = Self::greeted(url);
        consumer.option(1, name.as_bytes());
        match consumer.0.read_exact(&mut [0; 10]) {
            Ok(()) => Some(consumer),
            Err(_) => None,
        }
    }

    /// The kind of the first reply to a request for all names: 1 is their end.
    fn first_of_list(url: &str) -> u32 {
        let mut consumer = Self::greeted(url);
        consumer.option(3, &[]);
        let mut reply = [0; 20];
        consumer.0.read_exact(&mut reply).unwrap();
        u32::from_be_bytes(reply[12..16].try_into().unwrap())
    }

    /// The error of a request for the first 512 bytes, with what it has to send; nothing when the connection has ended.
    fn ask(&mut self, command: u16, data: &[u8]) -> Option<u32> {
        let head =
            [&0x2560_9513_u32.to_be_bytes()[..], &[0, 0], &command.to_be_bytes(), &[0; 16], &512_u32.to_be_bytes()];
        self.0.write_all(&[&head.concat(), data].concat()).ok()?;
        let mut reply = [0; 16];
        self.0.read_exact(&mut reply).ok()?;
        let error = u32::from_be_bytes(reply[4..8].try_into().unwrap());
        if command == 0 && error == 0 {
            self.0.read_exact(&mut [0; 512]).ok()?;
        }
        Some(error)
    }

    fn reads(&mut self) -> Option<u32> {
        self.ask(0, &[])
    }

    fn writes(&mut self) -> Option<u32> {
        self.ask(1, &[7; 512])
    }
}

fn asked(daemon: &Daemon, project: &str, method: &str, path: &str, body: &Value) -> Answer {
    let token = format!("X-Auth-Token: u:{project}");
    let answer = daemon.request_with(method, path, &[&token, "OpenStack-API-Version: volume 3.71"], Some(body));
    assert!(answer.status < 300, "{method} {path}: {} {}", answer.status, answer.body);
    answer
}

fn volume(daemon: &Daemon, project: &str) -> String {
    let answer = asked(daemon, project, "POST", &format!("/v3/{project}/volumes"), &json!({"volume": {"size": 1}}));
    let id = answer.body["volume"]["id"].as_str().unwrap().to_owned();
    drop(daemon.wait(&format!("/v3/p/volumes/{id}"), |answer| answer.body["volume"]["status"] == "available"));
    id
}

/// The attachment, and the address and name that it was told.
fn attach(daemon: &Daemon, volume: &str, mode: &str) -> (String, String, String) {
    let wanted = json!({"volume_uuid": volume, "instance_uuid": "i", "mode": mode, "connector": {"host": "elsewhere"}});
    let made =
        asked(daemon, "p", "POST", "/v3/p/attachments", &json!({"attachment": wanted})).body["attachment"].clone();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let info = &made["connection_info"];
    (text(&made["id"]), text(&info["url"]), text(&info["export"]))
}

fn detach(daemon: &Daemon, attachment: &str) {
    drop(asked(daemon, "p", "DELETE", &format!("/v3/p/attachments/{attachment}"), &Value::Null));
}

fn port(daemon: &Daemon) -> String {
    let listeners = daemon.ready["listeners"].as_array().unwrap();
    let found = listeners.iter().find_map(|one| one["uri"].as_str().filter(|uri| uri.starts_with("nbd://")));
    found.unwrap().to_owned()
}

#[test]
fn an_attachment_opens_its_volume_and_nothing_else() {
    let place = Place::new();
    let daemon = place.start();
    let (mine, theirs) = (volume(&daemon, "p"), volume(&daemon, "q"));
    let fields = json!({"name": "i", "disk_format": "raw", "container_format": "bare"});
    let image = asked(&daemon, "q", "POST", "/image/v2/images", &fields).body["id"].as_str().unwrap().to_owned();
    let sent = format!(
        "PUT /image/v2/images/{image}/file HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Auth-Token: u:q\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: 4\r\n\r\ndisk"
    );
    assert_eq!(daemon.raw(sent.as_bytes()).unwrap().status, 204);
    let (attachment, url, name) = attach(&daemon, &mine, "rw");
    let (_, _, other) = attach(&daemon, &theirs, "rw");
    let mut consumer = Consumer::of(&url, &name).expect("what is attached");
    assert_eq!((consumer.writes(), consumer.reads()), (Some(0), Some(0)));
    let secret = name.split_once('.').unwrap().1;
    assert!(secret.len() == 43 && !other.contains(secret));
    for wrong in [
        String::new(),
        format!("volume-{mine}"),
        format!("volume-{theirs}"),
        format!("volume-{theirs}.{secret}"),
        format!("image-{image}"),
        format!("image-{image}@content"),
        format!("{name}@content"),
        secret.to_owned(),
    ] {
        assert!(Consumer::of(&url, &wrong).is_none(), "{wrong}");
    }
    assert_eq!(Consumer::first_of_list(&url), 1, "no names");
    // The consumer finds its volume again when the daemon was killed.
    daemon.kill();
    let daemon = place.start();
    let url = port(&daemon);
    let mut consumer = Consumer::of(&url, &name).expect("what is attached");
    assert_eq!(consumer.reads(), Some(0));
    // It ends with the attachment, also for those who do not go.
    detach(&daemon, &attachment);
    assert_eq!(consumer.reads(), None);
    assert!(Consumer::of(&url, &name).is_none());
    let (attachment, _, next) = attach(&daemon, &mine, "ro");
    assert!(next != name && Consumer::of(&url, &name).is_none());
    let mut consumer = Consumer::of(&url, &next).expect("what is attached");
    assert_eq!((consumer.reads(), consumer.writes()), (Some(0), Some(1)), "to be read only");
    detach(&daemon, &attachment);
    assert!(daemon.stop());
}

#[test]
fn who_gives_a_volume_away_keeps_no_way_to_it() {
    let place = Place::new();
    let daemon = place.start();
    let (id, url) = (volume(&daemon, "p"), port(&daemon));
    let wanted = json!({"os-initialize_connection": {"connector": {"host": "elsewhere"}}});
    let told = asked(&daemon, "p", "POST", &format!("/v3/p/volumes/{id}/action"), &wanted);
    let name = told.body["connection_info"]["data"]["export"].as_str().unwrap();
    let mut consumer = Consumer::of(&url, name).expect("a volume");
    assert_eq!(consumer.reads(), Some(0));
    let offer = json!({"transfer": {"volume_id": id}});
    let offer = asked(&daemon, "p", "POST", "/v3/p/volume-transfers", &offer).body["transfer"].clone();
    assert_eq!(consumer.reads(), None);
    let path = format!("/v3/q/volume-transfers/{}/accept", offer["id"].as_str().unwrap());
    drop(asked(&daemon, "q", "POST", &path, &json!({"accept": {"auth_key": offer["auth_key"]}})));
    let (_, _, theirs) = attach(&daemon, &id, "rw");
    assert!(theirs != name && Consumer::of(&url, name).is_none() && Consumer::of(&url, &theirs).is_some());
    assert!(daemon.stop());
}

fn act(daemon: &Daemon, volume: &str, action: &Value) -> Value {
    asked(daemon, "p", "POST", &format!("/v3/p/volumes/{volume}/action"), action).body
}

/// The name that is told in the older way.
fn initialize(daemon: &Daemon, volume: &str) -> String {
    let told = act(daemon, volume, &json!({"os-initialize_connection": {"connector": {"host": "elsewhere"}}}));
    told["connection_info"]["data"]["export"].as_str().unwrap().to_owned()
}

#[test]
fn a_name_ends_with_what_it_was_told_for() {
    let place = Place::new();
    let daemon = place.start();
    let (id, url) = (volume(&daemon, "p"), port(&daemon));
    let read_only = |flag: bool| drop(act(&daemon, &id, &json!({"os-update_readonly_flag": {"readonly": flag}})));
    // To write, and then the volume is for reading.
    let name = initialize(&daemon, &id);
    let mut consumer = Consumer::of(&url, &name).expect("a volume");
    assert_eq!(consumer.writes(), Some(0));
    read_only(true);
    assert_eq!(consumer.reads(), None);
    assert!(Consumer::of(&url, &name).is_none());
    let name = initialize(&daemon, &id);
    assert_eq!(Consumer::of(&url, &name).expect("a volume").writes(), Some(1));
    read_only(false);
    assert!(Consumer::of(&url, &name).is_none());
    // Reserved, and given back; told before it was reserved.
    let before = initialize(&daemon, &id);
    drop(act(&daemon, &id, &json!({"os-reserve": {}})));
    let name = initialize(&daemon, &id);
    assert!(name != before && Consumer::of(&url, &before).is_none() && Consumer::of(&url, &name).is_some());
    drop(act(&daemon, &id, &json!({"os-unreserve": {}})));
    assert!(Consumer::of(&url, &name).is_none());
    // Told to somebody who has no attachment, and then it is attached.
    let before = initialize(&daemon, &id);
    let mut consumer = Consumer::of(&url, &before).expect("a volume");
    let (attachment, _, name) = attach(&daemon, &id, "rw");
    assert_eq!(consumer.writes(), None);
    assert!(name != before && Consumer::of(&url, &before).is_none());
    assert_eq!(initialize(&daemon, &id), name, "the same, for its consumer");
    assert_eq!(Consumer::of(&url, &name).expect("what is attached").writes(), Some(0));
    detach(&daemon, &attachment);
    // Attached for reading: nobody is told how to write.
    let (attachment, _, name) = attach(&daemon, &id, "ro");
    assert_eq!(initialize(&daemon, &id), name);
    assert_eq!(Consumer::of(&url, &name).expect("what is attached").writes(), Some(1));
    detach(&daemon, &attachment);
    assert!(daemon.stop());
}
