//! Disks of virtual machines over vhost-user-blk, as the routes tell of them.

use cairn_vhost_user::{ClientInfo, ExportInfo, Server};
use serde::{Deserialize, Serialize};

/// The vhost-user server of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VhostUser {
    /// Where the sockets are.
    pub directory: String,
    /// By name.
    pub exports: Vec<VhostExport>,
}

/// A socket that serves a volume or snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VhostExport {
    /// What its volume or snapshot was called when the socket was made.
    pub name: String,
    /// Path of the socket.
    pub socket: String,
    /// Whether it is a snapshot, which takes no writes.
    pub read_only: bool,
    /// Who uses it.
    pub client: Option<VhostClient>,
    /// Why the last virtual machine that came was turned away, if what is exported could not be opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// A connected front-end: as a rule, a virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VhostClient {
    /// Its process and user.
    pub peer: String,
    /// When it connected, in milliseconds since 1970.
    pub connected_ms: u64,
    /// Queues that are served.
    pub queues: u64,
    /// Requests so far.
    pub requests: u64,
    /// Requests that are not answered yet.
    pub in_flight: u64,
    /// Requests that a server before this one had left in flight, and that were done again.
    pub resubmitted: u64,
    /// Requests that were answered with an error.
    pub failed: u64,
    /// Things that the guest or its front-end did and that make no sense.
    pub faults: u64,
    /// The last of these.
    pub last_fault: Option<String>,
    /// Bytes read so far.
    pub read_bytes: u64,
    /// Bytes written so far.
    pub written_bytes: u64,
}

impl VhostUser {
    pub(crate) fn of(server: &Server) -> Self {
        let exports = server.exports().into_iter().map(VhostExport::from).collect();
        Self { directory: server.directory().display().to_string(), exports }
    }
}

impl From<ExportInfo> for VhostExport {
    fn from(export: ExportInfo) -> Self {
        Self {
            read_only: export.name.contains('@'),
            name: export.name,
            socket: export.socket.display().to_string(),
            client: export.client.map(VhostClient::from),
            refused: export.refused,
        }
    }
}

impl From<ClientInfo> for VhostClient {
    fn from(client: ClientInfo) -> Self {
        Self {
            peer: client.peer,
            connected_ms: client.connected_ms,
            queues: client.queues,
            requests: client.requests,
            in_flight: client.in_flight,
            resubmitted: client.resubmitted,
            failed: client.failed,
            faults: client.faults,
            last_fault: client.last_fault,
            read_bytes: client.read_bytes,
            written_bytes: client.written_bytes,
        }
    }
}
