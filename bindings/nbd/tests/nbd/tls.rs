use crate::{client::*, fixture::*};
use cairn_nbd::{Options, TlsMode, protocol::*};
use openssl::{
    error::ErrorStack,
    ssl::{Ssl, SslContext, SslMethod, SslStream},
};
use std::os::unix::net::UnixStream;

const KEY: [u8; 16] = [0xab; 16];

fn fixture(tls: TlsMode) -> (Fixture, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.psk");
    std::fs::write(&path, format!("alice:{}\n", "ab".repeat(16))).unwrap();
    (Fixture::with(Options { tls, psk: Some(path), ..Options::default() }), directory)
}

fn encrypt(stream: UnixStream, user: &'static str) -> Result<SslStream<UnixStream>, openssl::ssl::Error> {
    let mut builder = SslContext::builder(SslMethod::tls_client()).unwrap();
    builder.set_psk_client_callback(move |_, _, identity, psk| {
        identity[..user.len()].copy_from_slice(user.as_bytes());
        identity[user.len()] = 0;
        psk[..KEY.len()].copy_from_slice(&KEY);
        Ok::<_, ErrorStack>(KEY.len())
    });
    let mut stream = SslStream::new(Ssl::new(&builder.build()).unwrap(), stream).unwrap();
    stream.connect().map(|()| stream)
}

/// A client after STARTTLS was accepted, and the stream to encrypt.
fn start_tls(fixture: &Fixture) -> UnixStream {
    let stream = fixture.stream();
    let mut client = Client::new(Box::new(stream.try_clone().unwrap()));
    assert_eq!(client.outcome(OPT_STARTTLS, &[]), REP_ACK);
    stream
}

#[test]
fn required_tls_lets_users_in_and_tells_others_nothing() {
    let (fixture, _keys) = fixture(TlsMode::Require);
    assert!(fixture.server.address().starts_with("nbds+unix:"));
    let mut plain = fixture.client();
    for option in [OPT_LIST, OPT_GO, OPT_INFO, OPT_STRUCTURED_REPLY, 99] {
        assert_eq!(plain.outcome(option, &info("db", &[])), REP_ERR_TLS_REQD);
    }
    let encrypted = encrypt(start_tls(&fixture), "alice").unwrap();
    let mut client = Client::over(Box::new(encrypted)).agree_on(ReplyStyle::Structured);
    assert_eq!(client.outcome(OPT_STARTTLS, &[]), REP_ERR_INVALID);
    let mut client = client.go("db");
    let data: Vec<u8> = (0..4u32 << 20).map(|i| (i >> 3) as u8 | 1).collect();
    client.write(0, 0, &data);
    assert!(client.read(0, data.len() as u64) == data);
    let mut packet = Vec::new();
    for i in 0..64 {
        packet.extend(client.request(CMD_READ, 0, i * 4096, 4096, &[]).0);
    }
    client.send(&packet);
    let first = 3; // the write and the read before have cookies 1 and 2
    for _ in 0..64 {
        let (cookie, answer) = client.answer(&|cookie| ((cookie - first) * 4096, 4096));
        let at = (cookie - first) as usize * 4096;
        assert_eq!(answer.data, data[at..at + 4096]);
    }
    assert!(fixture.server.clients().iter().any(|client| client.tls));
    client.disconnect();
}

#[test]
fn strangers_and_noise_are_cut_off() {
    let (fixture, _keys) = fixture(TlsMode::Require);
    assert!(encrypt(start_tls(&fixture), "mallory").is_err());
    let mut noise = Client::over(Box::new(start_tls(&fixture)));
    noise.send(&option_bytes(OPT_GO, &info("db", &[])));
    assert!(noise.is_closed(), "a client that goes on in clear");
    let mut pipelined = fixture.client();
    let mut bytes = option_bytes(OPT_STARTTLS, &[]);
    bytes.extend(option_bytes(OPT_GO, &info("db", &[])));
    pipelined.send(&bytes);
    assert_eq!(pipelined.option_reply(OPT_STARTTLS).kind, REP_ACK);
    assert!(pipelined.is_closed(), "what came in clear behind STARTTLS is not taken for encrypted");
    eventually("all of them are gone", || fixture.server.clients().is_empty());
}

#[test]
fn allowed_tls_is_the_clients_choice() {
    let (fixture, _keys) = fixture(TlsMode::Allow);
    let mut plain = fixture.client().go("db");
    plain.write(0, 0, &[6; 512]);
    let encrypted = encrypt(start_tls(&fixture), "alice").unwrap();
    let mut client = Client::over(Box::new(encrypted)).go("db");
    assert_eq!(client.read(0, 512), [6; 512]);
    client.disconnect();
}

#[test]
fn vanishing_under_tls_leaves_nothing() {
    let (fixture, _keys) = fixture(TlsMode::Require);
    for _ in 0..5 {
        let encrypted = encrypt(start_tls(&fixture), "alice").unwrap();
        let mut client = Client::over(Box::new(encrypted)).go("db");
        let (bytes, _) = client.request(CMD_WRITE, 0, 0, 65536, &[1; 65536]);
        client.send(&bytes[..30_000]);
    }
    eventually("all of them are gone", || fixture.server.clients().is_empty() && fixture.attached() == 0);
}
