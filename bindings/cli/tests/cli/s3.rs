//! A server of the S3 protocol on loopback: moto, which `scripts/setup` installs.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use crate::harness::wait_until;

/// Killed at the end.
pub(crate) struct S3 {
    child: Child,
    port: u16,
}

impl Drop for S3 {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn program() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
    let path = cache.join("cairn/moto-5.2.5/bin/moto_server");
    assert!(path.exists(), "{} is missing: scripts/setup installs it", path.display());
    path
}

impl S3 {
    /// Starts one with a bucket named `bucket`.
    pub(crate) fn start() -> Self {
        // Free a moment ago; nobody else on this machine asks for this one in particular.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(program())
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, port };
        wait_until(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
        assert!(server.request("PUT", "/bucket").starts_with("HTTP/1.1 200"), "no bucket was made");
        server
    }

    fn request(&self, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        // It wants to see a signature, and does not look at it.
        let signature = "Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, \
            SignedHeaders=host, Signature=none";
        let head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{signature}\r\n");
        write!(stream, "{head}Content-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        let _length = stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Deletes an object behind everybody's back.
    pub(crate) fn delete(&self, key: &str) {
        let answer = self.request("DELETE", &format!("/bucket/{key}"));
        assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    }

    /// Keys of objects that begin so.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let answer = self.request("GET", &format!("/bucket?list-type=2&prefix={prefix}"));
        let keys = answer.split("<Key>").skip(1);
        keys.filter_map(|rest| rest.split("</Key>").next()).map(str::to_owned).collect()
    }

    /// Options of `cairn backup` for this server.
    pub(crate) fn options(&self) -> Vec<String> {
        let pairs = [
            format!("aws_endpoint=http://127.0.0.1:{}", self.port),
            "aws_allow_http=true".to_owned(),
            "aws_access_key_id=test".to_owned(),
            "aws_secret_access_key=test".to_owned(),
            "aws_region=us-east-1".to_owned(),
        ];
        pairs.into_iter().flat_map(|pair| ["--option".to_owned(), pair]).collect()
    }
}
