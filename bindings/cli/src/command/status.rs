//! `cairn status` and `cairn stop`: about the server, never about the pool's content.

use cairn_engine::ErrorKind;
use cairn_service::{Failure, api::Status, control, vhost_user::VhostUser};
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, sleep};

use super::{pool_of, reach};
use crate::{
    args::Global,
    output::{Fields, Output, Side, Table},
    size::Bytes,
    time::iso_utc,
};

pub(super) async fn status(global: &Global, output: &Output) -> Result<(), Failure> {
    let pool = pool_of(global)?;
    match control::find_server(&pool).await? {
        Some((_, status)) => output.result(&status, described(&status)),
        None => output.result(
            &json!({ "served": false, "pool": pool.display().to_string(), "listeners": [], "clients": [], "vhost_user": null }),
            format!("pool {} is not served", pool.display()),
        ),
    }
}

fn described(status: &Status) -> String {
    let mut fields = Fields::new();
    fields
        .add("pool", &status.pool)
        .add("uuid", &status.uuid)
        .add("served by", format!("process {}, cairn {}", status.pid, status.version))
        .add("since", iso_utc(status.since_ms));
    for listener in &status.listeners {
        fields.add("nbd", format!("{}  {}", listener.address, listener.uri));
    }
    for filling in &status.filling {
        let (done, total) = (Bytes(filling.progress.done), Bytes(filling.progress.total));
        let state =
            filling.error.as_ref().map_or_else(|| format!("{done} of {total}"), |why| format!("stopped: {why}"));
        fields.add("filling", format!("{} from backup {}: {state}", filling.volume, filling.backup));
    }
    for disk in status.vhost_user.iter().flat_map(|disks| &disks.exports) {
        let refused = disk.refused.as_ref().map(|why| format!("  turned a machine away: {why}")).unwrap_or_default();
        fields.add("vhost-user", format!("{}  {}{refused}", disk.name, disk.socket));
    }
    if let Some(disks) = status.vhost_user.as_ref().filter(|disks| disks.exports.is_empty()) {
        fields.add("vhost-user", format!("nothing in {}", disks.directory));
    }
    fields.add("clients", status.clients.len());
    let mut text = fields.to_string();
    if !status.clients.is_empty() {
        text += &format!("\n\n{}", clients(status));
    }
    if let Some(machines) = status.vhost_user.as_ref().and_then(machines) {
        text += &format!("\n\n{machines}");
    }
    text
}

fn clients(status: &Status) -> Table {
    let mut table = Table::new(&[
        ("EXPORT", Side::Left),
        ("CLIENT", Side::Left),
        ("LISTENER", Side::Left),
        ("TLS", Side::Left),
        ("SINCE", Side::Left),
        ("REQUESTS", Side::Right),
        ("READ", Side::Right),
        ("WRITTEN", Side::Right),
    ]);
    for client in &status.clients {
        let export = client.export.clone().unwrap_or_else(|| "(negotiating)".into());
        table.row([
            export,
            client.peer.clone(),
            client.listener.clone(),
            if client.tls { "yes" } else { "no" }.to_owned(),
            iso_utc(client.connected_ms),
            client.requests.to_string(),
            Bytes(client.read_bytes).to_string(),
            Bytes(client.written_bytes).to_string(),
        ]);
    }
    table
}

/// Who uses the disks, if anybody does.
fn machines(disks: &VhostUser) -> Option<Table> {
    let mut table = Table::new(&[
        ("DISK", Side::Left),
        ("MACHINE", Side::Left),
        ("QUEUES", Side::Right),
        ("SINCE", Side::Left),
        ("REQUESTS", Side::Right),
        ("READ", Side::Right),
        ("WRITTEN", Side::Right),
        ("REPEATED", Side::Right),
        ("FAULTS", Side::Right),
    ]);
    let mut any = false;
    for (disk, client) in disks.exports.iter().filter_map(|disk| Some((disk, disk.client.as_ref()?))) {
        any = true;
        table.row([
            disk.name.clone(),
            client.peer.clone(),
            client.queues.to_string(),
            iso_utc(client.connected_ms),
            client.requests.to_string(),
            Bytes(client.read_bytes).to_string(),
            Bytes(client.written_bytes).to_string(),
            client.resubmitted.to_string(),
            client.faults.to_string(),
        ]);
    }
    any.then_some(table)
}

/// Stops the server and waits until nobody answers any more, as long as `--wait` allows.
pub(super) async fn stop(global: &Global, output: &Output) -> Result<(), Failure> {
    let reach = reach(global)?;
    let Some((client, status)) = control::find_server(&reach.pool).await? else {
        return Err(Failure::new(ErrorKind::NotFound, format!("pool {} is not served", reach.pool.display())));
    };
    client.shutdown().await?;
    let deadline = Instant::now() + reach.wait;
    while control::socket_path(&reach.pool)?.exists() {
        if Instant::now() >= deadline {
            let text = format!("process {} was asked to stop and has not yet", status.pid);
            return Err(Failure::new(ErrorKind::Busy, text));
        }
        sleep(Duration::from_millis(20)).await;
    }
    output.result(&json!({ "stopped": status.pid }), format!("stopped the server of pool {}", reach.pool.display()))
}
