//! TLS, with certificates and with pre-shared keys, made anew for each test.

use cairn_tests::{
    fixture::{Serve, Server, TempPool},
    nbd::Client,
    tool::{Finished, run},
};

use crate::images::{assert_same, disk};

/// Makes an authority, a certificate for the server at 127.0.0.1 and one for a client, under the names that clients look for.
struct Certificates<'a> {
    pool: &'a TempPool,
    directory: String,
}

impl<'a> Certificates<'a> {
    fn make(pool: &'a TempPool, directory: &str) -> Self {
        let made = Self { pool, directory: pool.file_text(directory) };
        std::fs::create_dir(&made.directory).unwrap();
        let authority = [
            "-subj",
            "/CN=authority",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign",
        ];
        openssl(
            &[
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-keyout",
                &made.path("ca-key.pem"),
                "-out",
                &made.path("ca-cert.pem"),
            ],
            &authority,
        );
        made.sign("server", "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth\n");
        made.sign("client", "extendedKeyUsage=clientAuth\n");
        made
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.directory)
    }

    fn sign(&self, name: &str, extensions: &str) {
        let request = self.path(&format!("{name}.csr"));
        let key = self.path(&format!("{name}-key.pem"));
        openssl(
            &["req", "-newkey", "rsa:2048", "-nodes", "-keyout", &key, "-out", &request],
            &["-subj", &format!("/CN={name}")],
        );
        let extra = self.path(&format!("{name}.ext"));
        std::fs::write(
            &extra,
            format!("basicConstraints=CA:FALSE\nkeyUsage=digitalSignature,keyEncipherment\n{extensions}"),
        )
        .unwrap();
        let (authority, authority_key) = (self.path("ca-cert.pem"), self.path("ca-key.pem"));
        let out = self.path(&format!("{name}-cert.pem"));
        openssl(
            &[
                "x509",
                "-req",
                "-days",
                "2",
                "-in",
                &request,
                "-CA",
                &authority,
                "-CAkey",
                &authority_key,
                "-CAcreateserial",
            ],
            &["-extfile", &extra, "-out", &out],
        );
    }

    fn serve(&self, policy: &str) -> Server<'a> {
        let serve = Serve::tcp().arg("--tls").arg(policy);
        let serve =
            serve.arg("--tls-cert").arg(self.path("server-cert.pem")).arg("--tls-key").arg(self.path("server-key.pem"));
        serve.arg("--tls-ca").arg(self.path("ca-cert.pem")).start(self.pool)
    }

    /// The URI of the volume `v` with these certificates.
    fn uri(&self, server: &Server<'_>) -> String {
        format!("{}?tls-certificates={}", server.address().tls_uri("v"), self.directory)
    }
}

#[track_caller]
fn openssl(args: &[&str], more: &[&str]) {
    run("openssl", args.iter().chain(more)).ok();
}

/// qemu-img compares a file with the volume `v`, with credentials.
fn qemu_compare(file: &str, server: &Server<'_>, credentials: &str) -> Finished {
    let uri = server.uri("v");
    let (host, port) = uri.trim_start_matches("nbd://").trim_end_matches("/v").split_once(':').unwrap();
    let object = format!("{credentials},id=tls0,endpoint=client");
    let image =
        format!("driver=raw,file.driver=nbd,file.host={host},file.port={port},file.export=v,file.tls-creds=tls0");
    run(
        "qemu-img",
        [
            "compare",
            "--object",
            &object,
            "--image-opts",
            &format!("driver=raw,file.driver=file,file.filename={file}"),
            &image,
        ],
    )
}

fn pool_with_volume(seed: u64) -> (TempPool, Vec<u8>, String) {
    let pool = TempPool::create("128MiB");
    let disk = disk(seed, 8);
    let file = pool.file_with("disk", &disk);
    pool.cairn(["volume", "import", &file, "v"]);
    (pool, disk, file)
}

#[test]
fn certificates_of_both_sides() {
    let (pool, disk, file) = pool_with_volume(41);
    let certificates = Certificates::make(&pool, "tls");
    let strangers = Certificates::make(&pool, "strangers");
    let server = certificates.serve("require");
    let uri = certificates.uri(&server);
    let told = run("nbdinfo", ["--json", &uri]).ok().text();
    assert!(told.contains("\"TLS\": true"), "{told}");
    run("nbdcopy", [&uri, &pool.file_text("back")]).ok();
    assert_same(&pool.read_file("back"), &disk, "what nbdcopy read over TLS");
    run("nbdcopy", ["--flush", &file, &uri]).ok();
    qemu_compare(&file, &server, &format!("tls-creds-x509,dir={}", certificates.directory)).ok();

    run("nbdinfo", [&server.uri("v")]).failed();
    assert!(Client::connect(&server.address(), "v").is_err(), "without TLS nothing is served");
    run("nbdinfo", [&strangers.uri(&server)]).failed();
    qemu_compare(&file, &server, &format!("tls-creds-x509,dir={}", strangers.directory)).failed();
    run("nbdinfo", [&uri]).ok();
}

#[test]
fn tls_may_be_left_to_the_client() {
    let (pool, disk, _) = pool_with_volume(42);
    let certificates = Certificates::make(&pool, "tls");
    let server = certificates.serve("allow");
    assert_same(&run("nbdcopy", [certificates.uri(&server).as_str(), "-"]).ok().stdout, &disk, "over TLS");
    assert_same(&run("nbdcopy", [server.uri("v").as_str(), "-"]).ok().stdout, &disk, "without TLS");
}

#[test]
fn pre_shared_keys() {
    let (pool, disk, file) = pool_with_volume(43);
    std::fs::create_dir(pool.file("psk")).unwrap();
    let keys = pool
        .file_with("psk/keys.psk", b"alice:0123456789abcdef0123456789abcdef\nbob:00112233445566778899aabbccddeeff\n");
    let wrong = pool.file_with("wrong.psk", b"alice:ffffffffffffffffffffffffffffffff\n");
    let server = Serve::tcp().arg("--tls").arg("require").arg("--tls-psk").arg(&keys).start(&pool);
    let uri = |user: &str, keys: &str| {
        format!("{}?tls-psk-file={keys}", server.address().tls_uri("v").replacen("://", &format!("://{user}@"), 1))
    };
    for user in ["alice", "bob"] {
        assert_same(&run("nbdcopy", [uri(user, &keys).as_str(), "-"]).ok().stdout, &disk, user);
    }
    run("nbdinfo", [uri("alice", &wrong).as_str()]).failed();
    run("nbdinfo", [server.uri("v").as_str()]).failed();
    let credentials = format!("tls-creds-psk,dir={},username=alice", pool.file_text("psk"));
    qemu_compare(&file, &server, &credentials).ok();

    let unix = Serve::unix().arg("--tls").arg("require").arg("--tls-psk").arg(&keys);
    server.stop();
    let server = unix.start(&pool);
    let uri = server.address().tls_uri("v").replacen(":///", "://alice@/", 1) + "&tls-psk-file=" + &keys;
    assert_same(&run("nbdcopy", [uri.as_str(), "-"]).ok().stdout, &disk, "over a unix socket");
}

#[test]
fn credentials_that_cannot_work_are_told() {
    let (pool, _, _) = pool_with_volume(44);
    let empty = pool.file_with("empty.psk", b"");
    let cases = [
        (Serve::tcp().arg("--tls").arg("require"), "certificates"),
        (Serve::tcp().arg("--tls").arg("require").arg("--tls-psk").arg(pool.file("missing.psk")), "missing.psk"),
        (Serve::tcp().arg("--tls").arg("require").arg("--tls-psk").arg(&empty), "empty.psk"),
        (Serve::tcp().arg("--tls-psk").arg(&empty), "--tls"),
    ];
    for (serve, about) in cases {
        let said = serve.try_start(&pool).err().expect("it does not start");
        assert!(said.contains(about), "about {about}: {said}");
    }
}
