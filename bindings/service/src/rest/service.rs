//! What clients ask about the service itself: limits, services, zones, pools, extensions.

use axum::extract::State;
use serde_json::{Value, json};

use super::{
    Rest,
    context::Context,
    input::{Flag, Query},
    time::moment,
};
use crate::{block::BACKEND, catalog::now_us, domain::GIB, fault::Answer};

/// `GET /limits`.
pub(super) async fn limits(
    State(rest): State<Rest>,
    context: Context,
    Query(query): Query,
) -> Answer<axum::Json<Value>> {
    let other = query.get("tenant_id").or_else(|| query.get("project_id")).filter(|_| context.caller.is_admin());
    let project = other.cloned().unwrap_or_else(|| context.caller.project.clone());
    let lines = rest.block.quota(&context.caller, &project)?;
    let limit = |name: &str| lines.get(name).map_or(-1, |(limit, _)| *limit);
    let used = |name: &str| lines.get(name).map_or(0, |(_, count)| count.in_use + count.reserved);
    let absolute = json!({
        "maxTotalVolumes": limit("volumes"),
        "maxTotalSnapshots": limit("snapshots"),
        "maxTotalVolumeGigabytes": limit("gigabytes"),
        "maxTotalBackups": limit("backups"),
        "maxTotalBackupGigabytes": limit("backup_gigabytes"),
        "totalVolumesUsed": used("volumes"),
        "totalSnapshotsUsed": used("snapshots"),
        "totalGigabytesUsed": used("gigabytes"),
        "totalBackupsUsed": used("backups"),
        "totalBackupGigabytesUsed": used("backup_gigabytes"),
    });
    Ok(axum::Json(json!({"limits": {"rate": [], "absolute": absolute}})))
}

/// `GET /extensions`: none but what the interface itself has taken in long ago.
pub(super) async fn extensions(_context: Context) -> Answer<axum::Json<Value>> {
    Ok(axum::Json(json!({"extensions": []})))
}

/// `GET /os-services`.
pub(super) async fn services(
    State(rest): State<Rest>,
    context: Context,
    Query(query): Query,
) -> Answer<axum::Json<Value>> {
    context.caller.require_admin("volume_extension:services:index")?;
    let settings = rest.block.settings();
    let parts = [
        ("cinder-scheduler", settings.host.clone()),
        ("cinder-volume", format!("{}@{BACKEND}", settings.host)),
        ("cinder-backup", settings.host.clone()),
    ];
    let wanted = |binary: &str, host: &str| {
        query.get("binary").is_none_or(|name| name == binary) && query.get("host").is_none_or(|name| name == host)
    };
    let view = |(binary, host): (&str, String)| {
        json!({
            "binary": binary,
            "host": host,
            "zone": settings.zone,
            "status": "enabled",
            "state": "up",
            "updated_at": moment(now_us()),
            "disabled_reason": null,
        })
    };
    let services = parts.into_iter().filter(|(binary, host)| wanted(binary, host)).map(view);
    Ok(axum::Json(json!({"services": services.collect::<Vec<_>>()})))
}

/// `GET /os-availability-zone`.
pub(super) async fn zones(State(rest): State<Rest>, _context: Context) -> Answer<axum::Json<Value>> {
    let zone = json!({"zoneName": rest.block.settings().zone, "zoneState": {"available": true}});
    Ok(axum::Json(json!({"availabilityZoneInfo": [zone]})))
}

/// `GET /scheduler-stats/get_pools`.
pub(super) async fn pools(
    State(rest): State<Rest>,
    context: Context,
    Query(query): Query,
) -> Answer<axum::Json<Value>> {
    context.caller.require_admin("scheduler_extension:scheduler_stats:get_pools")?;
    let mut pool = json!({"name": rest.block.place()});
    let detail = query.get("detail").and_then(|text| Flag::parse(text)).is_some_and(|flag| flag.0);
    if let (true, Some(fields)) = (detail, pool.as_object_mut()) {
        let stats = rest.block.pool().stats().await?;
        let gib = |bytes: u64| bytes as f64 / GIB as f64;
        let capabilities = json!({
            "volume_backend_name": BACKEND,
            "vendor_name": "Cairn",
            "driver_version": env!("CARGO_PKG_VERSION"),
            "storage_protocol": "nbd",
            "total_capacity_gb": gib(stats.capacity),
            "free_capacity_gb": gib(stats.free),
            "allocated_capacity_gb": gib(stats.used),
            "provisioned_capacity_gb": gib(stats.logical),
            "max_over_subscription_ratio": rest.block.settings().over_subscription.to_string(),
            "thin_provisioning_support": true,
            "reserved_percentage": 0,
            "QoS_support": true,
            "multiattach": true,
            "pool_name": BACKEND,
            "timestamp": moment(now_us()),
        });
        drop(fields.insert("capabilities".to_owned(), capabilities));
    }
    Ok(axum::Json(json!({"pools": [pool]})))
}
