//! `/healthz` and `/metrics`.

use std::fmt::Write;

use axum::response::{IntoResponse, Response};
use cairn_backup::Progress;
use cairn_engine::{Flow, VolumeStats};
use http::{StatusCode, header};
use serde_json::json;

use crate::{block::Block, fault::Answer};

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
    out.family("cairn_pool_checksum_errors_total", "counter", "Blocks that failed their checksum.");
    out.sample("cairn_pool_checksum_errors_total", "", pool.checksum_errors);
    let volumes = block.pool().volume_stats().await?;
    volumes_text(&mut out, &volumes);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], out.0).into_response())
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
