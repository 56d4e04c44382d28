//! `cairn serve`.

use clap::{Args, ValueEnum};
use std::path::PathBuf;

use crate::size;

/// Whether clients may, or must, use TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TlsPolicy {
    /// Not offered
    Off,
    /// Offered; clients without it are served too
    Allow,
    /// Clients without it are refused
    Require,
}

#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// Where to serve: unix:PATH or tcp:HOST:PORT; may be given several times [default: unix:POOL.nbd]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) nbd: Vec<String>,
    /// Whether clients may, or must, use TLS
    #[arg(long, value_name = "POLICY", default_value = "off")]
    pub(crate) tls: TlsPolicy,
    /// Certificate chain of the server, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key of the certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Authorities whose certificates clients must show, PEM; any client when left out
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Pre-shared keys, a line USER:HEXKEY each
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_psk: Option<PathBuf>,
    /// Also offer disks to virtual machines: where their sockets are, for "cairn attach"; those of the server before come back
    #[arg(long, value_name = "DIR")]
    pub(crate) vhost_user: Option<PathBuf>,
    /// Memory for cached metadata
    #[arg(long, value_parser = size::parse, value_name = "SIZE")]
    pub(crate) cache: Option<u64>,
}
