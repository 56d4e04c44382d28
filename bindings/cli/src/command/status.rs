//! `cairn status` and `cairn stop`: about the server, never about the pool's content.

use cairn_engine::ErrorKind;
use cairn_service::{Failure, api::Status, control};
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
            &json!({ "served": false, "pool": pool.display().to_string(), "listeners": [], "clients": [] }),
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
    fields.add("clients", status.clients.len());
    if status.clients.is_empty() {
        return fields.to_string();
    }
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
    format!("{fields}\n\n{table}")
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
