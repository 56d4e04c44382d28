//! The NBD servers of a served pool, as the status route tells of them.

use cairn_engine::Pool;
use cairn_nbd::{Listen, Options, Server, TlsMode};

use crate::{
    Result,
    api::{Listener, NbdClient},
};

/// An NBD server and the address that it was given.
#[derive(Clone)]
pub struct NbdListener {
    listen: Listen,
    server: Server,
    tls: TlsMode,
}

impl NbdListener {
    /// Serves `pool` on `listen`.
    pub async fn start(pool: &Pool, listen: Listen, options: Options) -> Result<Self> {
        let tls = options.tls;
        let server = Server::start(pool, listen.clone(), options).await?;
        Ok(Self { listen, server, tls })
    }

    /// The server itself.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Whether it speaks TLS.
    pub(crate) fn tls(&self) -> TlsMode {
        self.tls
    }

    /// Where it is found.
    #[must_use]
    pub fn info(&self) -> Listener {
        Listener { address: self.address(), uri: self.server.uri("VOLUME") }
    }

    /// The address with the port that the system chose, where it was asked to.
    fn address(&self) -> String {
        let uri = self.server.address();
        match (&self.listen, uri.split_once("://")) {
            (Listen::Tcp { .. }, Some((_, rest))) => format!("tcp:{}", rest.trim_end_matches('/')),
            _ => self.listen.to_string(),
        }
    }

    /// Who is connected.
    pub(crate) fn clients(&self) -> impl Iterator<Item = NbdClient> + use<> {
        let listener = self.address();
        self.server.clients().into_iter().map(move |client| NbdClient {
            peer: client.peer,
            export: client.export,
            listener: listener.clone(),
            connected_ms: client.connected_ms,
            tls: client.tls,
            read_only: client.read_only,
            requests: client.requests,
            in_flight: client.in_flight,
            read_bytes: client.read_bytes,
            written_bytes: client.written_bytes,
        })
    }
}
