//! Volumes, snapshots and pools as people read them.

use cairn_engine::{CacheMode, Event, PoolStats, SnapshotInfo, SyncMode, VolumeInfo};

use crate::{
    output::{Fields, Side, Table},
    size::Bytes,
    time::iso_utc,
};

pub(super) fn sync_name(sync: SyncMode) -> &'static str {
    match sync {
        SyncMode::Always => "always",
        SyncMode::Flush => "flush",
        SyncMode::Never => "never",
    }
}

pub(super) fn cache_name(cache: CacheMode) -> &'static str {
    match cache {
        CacheMode::Direct => "direct",
        CacheMode::Writeback => "writeback",
    }
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

pub(super) fn volume(volume: &VolumeInfo) -> Fields {
    let mut fields = Fields::new();
    fields
        .add("name", &volume.name)
        .add("size", exact(volume.size))
        .add("allocated", exact(volume.allocated))
        .add_some("exclusive", volume.exclusive.map(exact))
        .add("snapshots", volume.snapshots)
        .add("attached", volume.attached)
        .add("sync", sync_name(volume.options.sync))
        .add("cache", cache_name(volume.options.cache))
        .add_some("parent", volume.parent.as_ref())
        .add("created", iso_utc(volume.created_ms))
        .add("id", format!("{} (version {})", volume.id.0, volume.version.0));
    fields
}

pub(super) fn volumes(volumes: &[VolumeInfo], exclusive: bool) -> Table {
    let mut columns = vec![("NAME", Side::Left), ("SIZE", Side::Right), ("ALLOCATED", Side::Right)];
    if exclusive {
        columns.push(("EXCLUSIVE", Side::Right));
    }
    columns.extend([
        ("SNAPSHOTS", Side::Right),
        ("ATTACHED", Side::Right),
        ("SYNC", Side::Left),
        ("CREATED", Side::Left),
        ("PARENT", Side::Left),
    ]);
    let mut table = Table::new(&columns);
    for volume in volumes {
        let mut cells = vec![volume.name.clone(), Bytes(volume.size).to_string(), Bytes(volume.allocated).to_string()];
        if exclusive {
            cells.push(or_dash(volume.exclusive.map(Bytes)));
        }
        cells.extend([
            volume.snapshots.to_string(),
            volume.attached.to_string(),
            sync_name(volume.options.sync).to_owned(),
            iso_utc(volume.created_ms),
            or_dash(volume.parent.as_ref()),
        ]);
        table.row(cells);
    }
    table
}

pub(super) fn snapshots(snapshots: &[SnapshotInfo], exclusive: bool) -> Table {
    let mut columns = vec![("NAME", Side::Left), ("SIZE", Side::Right), ("ALLOCATED", Side::Right)];
    if exclusive {
        columns.push(("EXCLUSIVE", Side::Right));
    }
    columns.extend([("ATTACHED", Side::Right), ("CREATED", Side::Left), ("PARENT", Side::Left)]);
    let mut table = Table::new(&columns);
    for snapshot in snapshots {
        let mut cells =
            vec![full_name(snapshot), Bytes(snapshot.size).to_string(), Bytes(snapshot.allocated).to_string()];
        if exclusive {
            cells.push(or_dash(snapshot.exclusive.map(Bytes)));
        }
        cells.extend([snapshot.attached.to_string(), iso_utc(snapshot.created_ms), or_dash(snapshot.parent.as_ref())]);
        table.row(cells);
    }
    table
}

pub(super) fn full_name(snapshot: &SnapshotInfo) -> String {
    format!("{}@{}", snapshot.volume, snapshot.name)
}

pub(super) fn pool(stats: &PoolStats) -> Fields {
    let mut fields = Fields::new();
    fields
        .add("pool", &stats.path)
        .add("uuid", &stats.uuid)
        .add("format", stats.format)
        .add("storage", &stats.storage)
        .add("size", exact(stats.size))
        .add("capacity", exact(stats.capacity))
        .add("used", with_share(stats.used, stats.capacity))
        .add("releasing", exact(stats.releasing))
        .add("free", with_share(stats.free, stats.capacity))
        .add("reserve", exact(stats.reserve))
        .add("logical", exact(stats.logical))
        .add("volumes", stats.volumes)
        .add("snapshots", stats.snapshots)
        .add("deleting", stats.deleting)
        .add("branch points", stats.branch_points)
        .add("journal", format!("{} of {}", Bytes(stats.journal_used), Bytes(stats.journal_size)))
        .add(
            "memory",
            format!(
                "{} cached, {} dirty, {} acknowledged and on its way",
                Bytes(stats.cache_memory),
                Bytes(stats.dirty_memory),
                Bytes(stats.writeback_memory)
            ),
        )
        .add("checkpoint", stats.checkpoint)
        .add("checksum errors", stats.checksum_errors)
        .add(
            "opened",
            format!("in {:.1} ms, {} records replayed", stats.open_us as f64 / 1000.0, stats.replayed_records),
        )
        .add_some("read-only", stats.read_only.as_ref());
    fields
}

/// `10 GiB (10737418240)`; small numbers need no second form.
pub(super) fn exact(bytes: u64) -> String {
    if bytes < 1024 { Bytes(bytes).to_string() } else { format!("{} ({bytes})", Bytes(bytes)) }
}

fn with_share(part: u64, whole: u64) -> String {
    let percent = if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 };
    format!("{}, {percent:.1} %", exact(part))
}

pub(super) fn event(event: &Event) -> String {
    match event {
        Event::Watermark { percent, above: true } => format!("usage rose above {percent} %"),
        Event::Watermark { percent, above: false } => format!("usage fell below {percent} %"),
        Event::Corrupt { what } => format!("corrupt: {what}"),
        Event::ReadOnly { cause } => format!("the pool takes no writes any more: {cause}"),
        Event::Unwritten { what } => format!("an acknowledged write has failed: {what}"),
        Event::Deleted { version, freed } => format!("version {} deleted, {} given back", version.0, Bytes(*freed)),
        Event::CopyUsed { what } => format!("a copy was used: {what}"),
        Event::ScrubStarted { total } => format!("a scrub has begun, {} to read", Bytes(*total)),
        Event::ScrubDamage { what } => format!("a scrub has found damage: {what}"),
        Event::ScrubEnded { cancelled, damaged_blocks } => {
            let how = if *cancelled { "was cancelled" } else { "has ended" };
            format!("a scrub {how}, {damaged_blocks} damaged blocks found")
        }
        Event::RegroupStarted { volume } => format!("a regroup of {volume} has begun"),
        Event::RegroupDamage { what } => format!("a regroup has found damage: {what}"),
        Event::RegroupEnded { volume, finished, moved } => {
            let how = if *finished { "has ended" } else { "has ended early" };
            format!("a regroup of {volume} {how}, {} moved", Bytes(*moved))
        }
        Event::Repaired { what } => format!("repaired: {what}"),
        other => format!("{other:?}"),
    }
}
