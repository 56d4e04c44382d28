//! How a server is to behave.

use cairn_engine::{Error, ErrorKind, Result};
use std::{fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use crate::exports::Offers;

/// Smallest and largest values of [`Options::max_request`], in bytes. The lower one is the preferred block size's floor
/// that the protocol asks for (1 MiB); the upper one is what every client may send without being taken for an attack.
const REQUEST_BOUNDS: std::ops::RangeInclusive<u32> = 1 << 20..=crate::protocol::MAX_PAYLOAD;

/// When connections are encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TlsMode {
    /// Never: `STARTTLS` is refused.
    #[default]
    Off,
    /// When the client asks for it.
    Allow,
    /// Always: nothing is told or served before TLS.
    Require,
}

impl FromStr for TlsMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "off" => Ok(Self::Off),
            "allow" | "on" => Ok(Self::Allow),
            "require" => Ok(Self::Require),
            _ => Err(Error::new(ErrorKind::Invalid, format!("TLS mode {text:?}: write off, allow or require"))),
        }
    }
}

impl fmt::Display for TlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Allow => "allow",
            Self::Require => "require",
        })
    }
}

/// Files of a server's X.509 certificate, in PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificates {
    /// The server's certificate, followed by its intermediate ones.
    pub chain: PathBuf,
    /// The server's private key.
    pub key: PathBuf,
    /// With this, clients must show a certificate that one of these authorities signed.
    pub client_ca: Option<PathBuf>,
}

impl Certificates {
    /// The files that other NBD servers look for in a directory: `server-cert.pem`, `server-key.pem` and, when clients are
    /// to be verified, `ca-cert.pem`.
    ///
    /// ```
    /// let files = cairn_nbd::Certificates::in_directory("/etc/cairn/tls", true);
    /// assert!(files.client_ca.unwrap().ends_with("ca-cert.pem"));
    /// ```
    #[must_use]
    pub fn in_directory(directory: impl Into<PathBuf>, verify_clients: bool) -> Self {
        let directory = directory.into();
        Self {
            chain: directory.join("server-cert.pem"),
            key: directory.join("server-key.pem"),
            client_ca: verify_clients.then(|| directory.join("ca-cert.pem")),
        }
    }
}

/// Options of a server. The defaults serve a VM host.
///
/// ```
/// let options = cairn_nbd::Options { max_clients: 4, ..Default::default() };
/// assert_eq!(options.max_request, 32 << 20);
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    /// When connections are encrypted.
    pub tls: TlsMode,
    /// The certificate to show; with TLS, this or `psk` or both must be set.
    pub certificates: Option<Certificates>,
    /// File of pre-shared keys, one `USER:HEXKEY` a line, as `psktool` writes them.
    pub psk: Option<PathBuf>,
    /// How many clients may be connected at once; further ones are turned away.
    pub max_clients: usize,
    /// Largest read or write in bytes, 1 MiB to 32 MiB.
    pub max_request: u32,
    /// How many requests of one connection may be in flight; the server stops reading from it beyond.
    pub in_flight_requests: u32,
    /// How many bytes of one connection's reads and writes may be in flight, answers not sent yet included. At least
    /// `max_request`.
    pub in_flight_bytes: usize,
    /// How long a client may take until it has chosen its export, TLS included.
    pub handshake_limit: Duration,
    /// How long [`Server::stop`](crate::Server::stop) waits for clients to take their last answers.
    pub stop_limit: Duration,
    /// Whether clients may only read, whatever they are served.
    pub read_only: bool,
    /// All that clients can open, and under which names; without it, every volume and snapshot of the pool under its own. With
    /// it, there are no snapshots to compare with (`cairn:changed-since`).
    pub offers: Option<Arc<dyn Offers>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tls: TlsMode::Off,
            certificates: None,
            psk: None,
            max_clients: 128,
            max_request: crate::protocol::MAX_PAYLOAD,
            in_flight_requests: 256,
            in_flight_bytes: 64 << 20,
            handshake_limit: Duration::from_secs(30),
            stop_limit: Duration::from_secs(5),
            read_only: false,
            offers: None,
        }
    }
}

impl Options {
    /// Refuses values that cannot work.
    pub(crate) fn validate(&self) -> Result<()> {
        let invalid = |text: String| Err(Error::new(ErrorKind::Invalid, text));
        if !REQUEST_BOUNDS.contains(&self.max_request) || !self.max_request.is_multiple_of(4096) {
            return invalid(format!(
                "largest request of {} bytes: choose 1 MiB to 32 MiB in steps of 4 KiB",
                self.max_request
            ));
        }
        if self.in_flight_bytes < self.max_request as usize {
            return invalid(format!(
                "{} bytes in flight are less than one largest request ({})",
                self.in_flight_bytes, self.max_request
            ));
        }
        if self.in_flight_requests == 0 || self.max_clients == 0 {
            return invalid("no client, or no request, could ever be served: raise the limit above 0".into());
        }
        if self.tls != TlsMode::Off && self.certificates.is_none() && self.psk.is_none() {
            return invalid(format!("TLS mode {} needs certificates or pre-shared keys", self.tls));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_modes_round_trip() {
        for mode in [TlsMode::Off, TlsMode::Allow, TlsMode::Require] {
            assert_eq!(mode.to_string().parse::<TlsMode>().unwrap(), mode);
        }
        assert!("always".parse::<TlsMode>().unwrap_err().to_string().contains("off, allow or require"));
    }

    #[test]
    fn impossible_options_are_refused() {
        assert!(Options::default().validate().is_ok());
        let bad = [
            Options { max_request: 4096, ..Default::default() },
            Options { max_request: (1 << 20) + 1, ..Default::default() },
            Options { max_request: 64 << 20, ..Default::default() },
            Options { in_flight_bytes: 1 << 20, ..Default::default() },
            Options { in_flight_requests: 0, ..Default::default() },
            Options { max_clients: 0, ..Default::default() },
            Options { tls: TlsMode::Require, ..Default::default() },
        ];
        for options in bad {
            assert_eq!(options.validate().unwrap_err().kind(), ErrorKind::Invalid, "{options:?}");
        }
    }
}
