//! `cairn up`.

use clap::Args;
use std::{net::SocketAddr, path::PathBuf};

use crate::size;

#[derive(Args, Debug)]
pub(crate) struct UpArgs {
    /// Where the pool, the backups and the sockets are; what is missing is made [default: ~/.local/share/cairn]
    #[arg(value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// Size of a pool that is made; it takes space as it is used
    #[arg(long, value_parser = size::parse, value_name = "SIZE", default_value = "64GiB")]
    pub(crate) size: u64,
    /// Address of the HTTP server, on this machine only; port 0: any
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8776")]
    pub(crate) listen: SocketAddr,
    /// Project that the environment lines name
    #[arg(long, value_name = "NAME", default_value = "demo")]
    pub(crate) project: String,
}
