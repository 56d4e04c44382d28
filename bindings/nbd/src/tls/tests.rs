use super::{
    credentials::{acceptor, parse_keys},
    session::{Progress, TlsSession},
};
use crate::options::{Certificates, Options, TlsMode};
use cairn_engine::ErrorKind;
use openssl::{
    asn1::Asn1Time,
    bn::BigNum,
    error::ErrorStack,
    hash::MessageDigest,
    pkey::{PKey, Private},
    rsa::Rsa,
    ssl::{ErrorCode, Ssl, SslContext, SslContextBuilder, SslMethod, SslStream, SslVerifyMode, SslVersion},
    x509::{X509, X509NameBuilder},
};
use std::{
    io::{self, Read, Write},
    path::Path,
};

/// The client's end: records in memory, as in the server.
#[derive(Default)]
struct Pipe {
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.incoming.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = out.len().min(self.incoming.len());
        out[..n].copy_from_slice(&self.incoming[..n]);
        self.incoming.drain(..n);
        Ok(n)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn client(set: impl FnOnce(&mut SslContextBuilder)) -> SslStream<Pipe> {
    let mut builder = SslContext::builder(SslMethod::tls_client()).unwrap();
    set(&mut builder);
    SslStream::new(Ssl::new(&builder.build()).unwrap(), Pipe::default()).unwrap()
}

/// Moves everything that each side has to send to the other.
fn exchange(server: &mut TlsSession, client: &mut SslStream<Pipe>) {
    client.get_mut().incoming.extend(server.take_outgoing());
    let sent = std::mem::take(&mut client.get_mut().outgoing);
    if !sent.is_empty() {
        let mut buf = server.lend();
        buf[..sent.len()].copy_from_slice(&sent);
        server.give_back(buf, sent.len());
    }
}

/// Shakes hands; whether both sides came through.
fn shake(server: &mut TlsSession, client: &mut SslStream<Pipe>) -> bool {
    for _ in 0..10 {
        let there = match client.connect() {
            Ok(()) => true,
            Err(e) if e.code() == ErrorCode::WANT_READ => false,
            Err(_) => return false,
        };
        exchange(server, client);
        match server.handshake() {
            Ok(Progress::Done(_)) if there => return true,
            Ok(_) => exchange(server, client),
            Err(_) => return false,
        }
    }
    false
}

fn round_trip(server: &mut TlsSession, client: &mut SslStream<Pipe>) {
    client.ssl_write(b"from the client").unwrap();
    exchange(server, client);
    let mut out = [0; 64];
    assert_eq!(server.read(&mut out).unwrap(), Progress::Done(15));
    assert_eq!(&out[..15], b"from the client");
    assert_eq!(server.read(&mut out).unwrap(), Progress::NeedRecords);
    let large = vec![7; 300_000];
    server.write(&large).unwrap();
    exchange(server, client);
    let mut back = vec![0; large.len()];
    client.read_exact(&mut back).unwrap();
    assert_eq!(back, large);
    server.close();
    exchange(server, client);
    assert_eq!(client.ssl_read(&mut out).unwrap_err().code(), ErrorCode::ZERO_RETURN);
}

fn certificate() -> (PKey<Private>, X509) {
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "localhost").unwrap();
    let name = name.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&BigNum::from_u32(1).unwrap().to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    (key, builder.build())
}

fn write_certificate(directory: &Path) -> (PKey<Private>, X509) {
    let (key, cert) = certificate();
    std::fs::write(directory.join("server-key.pem"), key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    std::fs::write(directory.join("server-cert.pem"), cert.to_pem().unwrap()).unwrap();
    std::fs::write(directory.join("ca-cert.pem"), cert.to_pem().unwrap()).unwrap();
    (key, cert)
}

fn options(certificates: Option<Certificates>, psk: Option<&Path>) -> Options {
    Options { tls: TlsMode::Require, certificates, psk: psk.map(Into::into), ..Default::default() }
}

fn server(options: &Options) -> TlsSession {
    TlsSession::new(&acceptor(options).unwrap().unwrap(), &[]).unwrap()
}

#[test]
fn certificates_with_and_without_client_verification() {
    let directory = tempfile::tempdir().unwrap();
    let (key, cert) = write_certificate(directory.path());
    let trusting = |builder: &mut SslContextBuilder| {
        builder.set_ca_file(directory.path().join("ca-cert.pem")).unwrap();
        builder.set_verify(SslVerifyMode::PEER);
    };
    let plain = options(Some(Certificates::in_directory(directory.path(), false)), None);
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let (mut server, mut client) = (
            server(&plain),
            client(|builder| {
                trusting(builder);
                builder.set_max_proto_version(Some(version)).unwrap();
            }),
        );
        assert!(shake(&mut server, &mut client), "{version:?}");
        round_trip(&mut server, &mut client);
    }
    let verifying = options(Some(Certificates::in_directory(directory.path(), true)), None);
    let (mut anonymous_server, mut anonymous) = (server(&verifying), client(trusting));
    assert!(!shake(&mut anonymous_server, &mut anonymous), "a client without a certificate");
    let (mut server, mut known) = (
        server(&verifying),
        client(|builder| {
            trusting(builder);
            builder.set_certificate(&cert).unwrap();
            builder.set_private_key(&key).unwrap();
        }),
    );
    assert!(shake(&mut server, &mut known));
    round_trip(&mut server, &mut known);
}

fn with_key(user: &'static str, key: &'static [u8], version: SslVersion) -> impl FnOnce(&mut SslContextBuilder) {
    move |builder| {
        builder.set_max_proto_version(Some(version)).unwrap();
        builder.set_cipher_list("PSK").unwrap();
        builder.set_psk_client_callback(move |_, _, identity, psk| {
            identity[..user.len()].copy_from_slice(user.as_bytes());
            identity[user.len()] = 0;
            psk[..key.len()].copy_from_slice(key);
            Ok::<_, ErrorStack>(key.len())
        });
    }
}

#[test]
fn pre_shared_keys_let_known_users_in() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.psk");
    std::fs::write(&path, "# users\nalice:000102030405060708090a0b0c0d0e0f\nbob:ff0102030405060708090a0b0c0d0e0f\n")
        .unwrap();
    let options = options(None, Some(&path));
    const ALICE: &[u8] = &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let (mut known, mut alice) = (server(&options), client(with_key("alice", ALICE, version)));
        assert!(shake(&mut known, &mut alice), "{version:?}");
        round_trip(&mut known, &mut alice);
        let (mut wrong, mut bob) = (server(&options), client(with_key("bob", ALICE, version)));
        assert!(!shake(&mut wrong, &mut bob), "bob with alice's key, {version:?}");
        let (mut unknown, mut carol) = (server(&options), client(with_key("carol", ALICE, version)));
        assert!(!shake(&mut unknown, &mut carol), "an unknown user, {version:?}");
    }
}

#[test]
fn garbage_is_an_error_and_not_a_wait() {
    let directory = tempfile::tempdir().unwrap();
    write_certificate(directory.path());
    let options = options(Some(Certificates::in_directory(directory.path(), false)), None);
    let mut session =
        TlsSession::new(&acceptor(&options).unwrap().unwrap(), b"IHAVEOPT\0\0\0\x07 no TLS at all").unwrap();
    assert!(session.handshake().is_err());
}

#[test]
fn key_files_are_read_strictly() {
    let keys = parse_keys("a:0011223344556677\n\n# c\nb:c:FFEEDDCCBBAA99887766\n").unwrap();
    assert_eq!(keys["a"], [0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77]);
    assert_eq!(keys["b:c"][0], 0xff);
    for bad in [
        "",
        "# only\n",
        "a",
        "a:0011",
        ":0011223344556677",
        "a:001122334455667",
        "a:zz11223344556677",
        "a:0011223344556677\na:0011223344556677",
    ] {
        let error = parse_keys(bad).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{bad:?}");
        assert!(!error.to_string().contains("0011"), "keys stay out of messages: {error}");
    }
}

#[test]
fn missing_and_mismatched_files_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = options(Some(Certificates::in_directory(directory.path(), false)), None);
    assert!(acceptor(&missing).err().unwrap().to_string().contains("server-cert.pem"));
    write_certificate(directory.path());
    let (other, _) = certificate();
    std::fs::write(directory.path().join("server-key.pem"), other.private_key_to_pem_pkcs8().unwrap()).unwrap();
    assert!(acceptor(&missing).err().unwrap().to_string().contains("server-key.pem"));
    assert!(acceptor(&Options::default()).unwrap().is_none());
}
