//! `/healthz` and `/metrics`.

use std::fmt::Write;

use axum::response::{IntoResponse, Response};
use cairn_backup::Progress;
use cairn_engine::{Flow, VolumeStats};
use http::{StatusCode, header};
use serde_json::json;

use crate::{
    block::Block,
    catalog::{Backup, Image},
    domain::{BackupStatus, GIB, ImageStatus, Role},
    fault::{Answer, Fault},
    identity::{Identity, Peer},
};

/// Whether the pool takes writes, and the catalog answers.
pub(super) async fn health(block: Block) -> Response {
    let problem = match block.pool().stats().await {
        Err(error) => Some(error.to_string()),
        Ok(stats) => stats.read_only.map(|cause| format!("the pool takes no writes: {cause}")),
    };
    let problem = problem.or_else(|| block.catalog().read().limits_set(None).err().map(|fault| fault.message));
    match problem {
        None => axum::Json(json!({"status": "ok"})).into_response(),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, axum::Json(json!({"status": "error", "problem": problem})))
            .into_response(),
    }
}

/// Numbers tell of all projects: with logins they are there for administrators, and for this host.
pub(super) async fn may_see(identity: &Identity, parts: &http::request::Parts) -> Answer<()> {
    let peer = parts.extensions.get::<Peer>().copied();
    let is_here = peer.is_some_and(|peer| peer.0.is_loopback());
    if matches!(identity, Identity::Dev(_)) || is_here {
        return Ok(());
    }
    let token = parts.headers.get("x-auth-token").and_then(|value| value.to_str().ok());
    match identity.resolve(token, None, peer).await?.role {
        Role::Admin => Ok(()),
        _ => Err(Fault::forbidden("metrics tell of all projects: it takes the role admin, or to ask from this host")),
    }
}

/// In the text format of Prometheus.
pub(super) async fn text(block: Block) -> Answer<Response> {
    let mut out = Text::default();
    let pool = block.pool().stats().await?;
    let under_way = block.under_way();
    for (name, help, value) in [
        ("cairn_pool_capacity_bytes", "Room for data and metadata.", pool.capacity),
        ("cairn_pool_used_bytes", "In use by versions and their metadata.", pool.used),
        ("cairn_pool_free_bytes", "Free now.", pool.free),
        ("cairn_pool_promised_bytes", "Sum of the logical sizes of all volumes.", pool.logical),
        ("cairn_pool_volumes", "Volumes in the pool.", pool.volumes),
        ("cairn_pool_snapshots", "Snapshots in the pool.", pool.snapshots),
        ("cairn_pool_journal_used_bytes", "Journal in use.", pool.journal_used),
        ("cairn_pool_journal_size_bytes", "Size of the journal.", pool.journal_size),
        ("cairn_pool_cache_bytes", "Memory held by cached metadata.", pool.cache_memory),
        ("cairn_pool_dirty_bytes", "Memory held by changed metadata.", pool.dirty_memory),
        ("cairn_pool_read_only", "1: the pool takes no writes.", u64::from(pool.read_only.is_some())),
        ("cairn_operations", "Operations under way.", under_way.len() as u64),
    ] {
        out.family(name, "gauge", help);
        out.sample(name, "", value);
    }
    for (name, help, value) in [
        ("cairn_operation_done_bytes", "How far a backup or restore is.", (|p| p.done) as fn(&Progress) -> u64),
        ("cairn_operation_total_bytes", "How far it has to go, as far as that is known.", |p| p.total),
    ] {
        out.family(name, "gauge", help);
        for (key, progress) in under_way.iter().filter(|(_, progress)| progress.total > 0) {
            out.sample(name, &format!("operation=\"{}\"", escaped(key)), value(progress));
        }
    }
    let images = block.catalog().read().all::<Image>()?;
    out.family("cairn_images", "gauge", "Images, by state.");
    for status in ImageStatus::ALL {
        let count = images.iter().filter(|image| image.status == *status).count();
        out.sample("cairn_images", &format!("status=\"{status}\""), count);
    }
    out.family("cairn_images_bytes", "gauge", "Bytes that were sent of the images that are there.");
    let bytes = images.iter().filter_map(|image| image.content.as_ref()).map(|content| content.size).sum::<u64>();
    out.sample("cairn_images_bytes", "", bytes);
    backups_text(&mut out, &block.catalog().read().all::<Backup>()?);
    garbage_text(&mut out, &block)?;
    out.family("cairn_pool_checksum_errors_total", "counter", "Blocks that failed their checksum.");
    out.sample("cairn_pool_checksum_errors_total", "", pool.checksum_errors);
    let volumes = block.pool().volume_stats().await?;
    volumes_text(&mut out, &volumes);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], out.0).into_response())
}

fn backups_text(out: &mut Text, backups: &[Backup]) {
    let of = |status: BackupStatus| backups.iter().filter(move |backup| backup.status == status);
    out.family("cairn_backups", "gauge", "Backups, by state.");
    for status in BackupStatus::ALL {
        out.sample("cairn_backups", &format!("status=\"{status}\""), of(*status).count());
    }
    // What they take of the repository is less, and known to the repository alone.
    out.family("cairn_backups_bytes", "gauge", "Sizes of the volumes that backups are of, by state of the backup.");
    for status in BackupStatus::ALL {
        let bytes = of(*status).map(|backup| backup.size).sum::<u64>() * GIB;
        out.sample("cairn_backups_bytes", &format!("status=\"{status}\""), bytes);
    }
}

/// What deleted backups leave in the repository.
fn garbage_text(out: &mut Text, block: &Block) -> Answer<()> {
    let garbage = block.catalog().read().garbage()?;
    let (freed, failed) = block.collections();
    let collected = garbage.collected_us as f64 / 1e6;
    out.family(
        "cairn_repository_deletions",
        "gauge",
        "Deleted, merged and failed backups since garbage was collected.",
    );
    out.sample("cairn_repository_deletions", "", garbage.left);
    out.family("cairn_repository_collected_timestamp_seconds", "gauge", "When garbage was collected last; 0: never.");
    out.sample("cairn_repository_collected_timestamp_seconds", "", collected);
    out.family("cairn_repository_freed_bytes_total", "counter", "Bytes that collections have freed.");
    out.sample("cairn_repository_freed_bytes_total", "", freed);
    out.family("cairn_repository_collection_failures_total", "counter", "Collections that failed.");
    out.sample("cairn_repository_collection_failures_total", "", failed);
    Ok(())
}

fn flows(volume: &VolumeStats) -> [(&'static str, &Flow); 4] {
    let flows = &volume.flows;
    [("read", &flows.read), ("write", &flows.write), ("discard", &flows.discard), ("flush", &flows.flush)]
}

fn volumes_text(out: &mut Text, volumes: &[VolumeStats]) {
    out.family("cairn_volume_requests_total", "counter", "Requests that ended.");
    each_flow(out, volumes, |out, labels, flow| out.sample("cairn_volume_requests_total", labels, flow.requests));
    out.family("cairn_volume_bytes_total", "counter", "Bytes that they concerned.");
    each_flow(out, volumes, |out, labels, flow| out.sample("cairn_volume_bytes_total", labels, flow.bytes));
    out.family("cairn_volume_latency_seconds", "histogram", "How long requests took.");
    each_flow(out, volumes, |out, labels, flow| {
        let mut below = 0;
        for (octave, count) in flow.latencies.iter().enumerate() {
            below += count;
            let end = (2_u64 << octave) as f64 / 1e6;
            out.sample("cairn_volume_latency_seconds_bucket", &format!("{labels},le=\"{end}\""), below);
        }
        out.sample("cairn_volume_latency_seconds_bucket", &format!("{labels},le=\"+Inf\""), below);
        out.sample("cairn_volume_latency_seconds_sum", labels, flow.nanos as f64 / 1e9);
        out.sample("cairn_volume_latency_seconds_count", labels, below);
    });
    out.family("cairn_volume_held_seconds_total", "counter", "How long limits held requests back.");
    for volume in volumes {
        for (by, held) in &volume.held {
            let labels = format!("volume=\"{}\",by=\"{}\"", escaped(&volume.name), escaped(by));
            out.sample("cairn_volume_held_seconds_total", &labels, held.nanos as f64 / 1e9);
        }
    }
    for (name, help, value) in [
        (
            "cairn_volume_allocated_bytes",
            "Data that the volume refers to.",
            (|v| v.allocated) as fn(&VolumeStats) -> u64,
        ),
        ("cairn_volume_size_bytes", "Logical size.", |v| v.size),
        ("cairn_volume_in_flight", "Requests under way.", |v| v.in_flight),
    ] {
        out.family(name, "gauge", help);
        for volume in volumes.iter().filter(|volume| volume.id.is_some()) {
            out.sample(name, &format!("volume=\"{}\"", escaped(&volume.name)), value(volume));
        }
    }
}

fn each_flow(out: &mut Text, volumes: &[VolumeStats], write: impl Fn(&mut Text, &str, &Flow)) {
    for volume in volumes {
        for (kind, flow) in flows(volume) {
            write(out, &format!("volume=\"{}\",kind=\"{kind}\"", escaped(&volume.name)), flow);
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a text cannot fail.
        let _done = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _done = match labels {
            "" => writeln!(self.0, "{name} {value}"),
            labels => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out_of_their_labels() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
        let mut out = Text::default();
        out.family("x", "gauge", "A thing.");
        out.sample("x", "a=\"b\"", 1.5);
        out.sample("x", "", 2);
        assert_eq!(out.0, "# HELP x A thing.\n# TYPE x gauge\nx{a=\"b\"} 1.5\nx 2\n");
    }
}
