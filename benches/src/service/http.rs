//! A client of the daemon: one connection, one request after the other.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::Value;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Whose volumes they are, and in which edition they are asked for.
const HEAD: &str = "Host: x\r\nX-Auth-Token: bench:bench\r\nOpenStack-API-Version: volume 3.71\r\n";

pub(crate) struct Client {
    address: String,
    stream: Option<BufReader<TcpStream>>,
}

impl Client {
    pub(crate) fn new(url: &str) -> Self {
        Self { address: url.trim_start_matches("http://").to_owned(), stream: None }
    }

    fn stream(&mut self) -> Result<&mut BufReader<TcpStream>, String> {
        if self.stream.is_none() {
            let fail = |e: std::io::Error| format!("{}: {e}", self.address);
            let stream = TcpStream::connect(&self.address).map_err(fail)?;
            stream.set_nodelay(true).map_err(fail)?;
            stream.set_read_timeout(Some(PATIENCE)).map_err(fail)?;
            self.stream = Some(BufReader::new(stream));
        }
        self.stream.as_mut().ok_or_else(|| "no connection".to_owned())
    }

    /// Status and body.
    pub(crate) fn request(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value), String> {
        let outcome = self.exchange(method, path, body);
        if outcome.is_err() {
            self.stream = None;
        }
        outcome.map_err(|e| format!("{method} {path}: {e}"))
    }

    /// The same; anything but success is a failure.
    pub(crate) fn ok(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
        match self.request(method, path, body)? {
            (status, body) if status < 300 => Ok(body),
            (status, body) => Err(format!("{method} {path}: {status} {body}")),
        }
    }

    fn exchange(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value), String> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!("{method} {path} HTTP/1.1\r\n{HEAD}Content-Length: {}\r\n\r\n{body}", body.len());
        let stream = self.stream()?;
        let fail = |e: std::io::Error| e.to_string();
        stream.get_mut().write_all(request.as_bytes()).map_err(fail)?;
        let mut line = String::new();
        let _length = stream.read_line(&mut line).map_err(fail)?;
        let status = line.split(' ').nth(1).and_then(|text| text.parse().ok()).ok_or("no answer")?;
        let mut length = 0;
        loop {
            line.clear();
            let _length = stream.read_line(&mut line).map_err(fail)?;
            let Some((key, value)) = line.trim().split_once(':') else { break };
            if key.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().map_err(|_| "an answer without a length")?;
            }
        }
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).map_err(fail)?;
        Ok((status, serde_json::from_slice(&bytes).unwrap_or_default()))
    }
}
