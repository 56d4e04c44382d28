//! Volumes as answers show them, field by field as the interface has them for each edition.

use serde_json::{Map, Value, json};

use super::{
    context::Context,
    filters::{Filter, at, consumes_quota, flag, named, number, pairs, part, text, zone},
    listing::{Listed, Sortable},
    time::{maybe, moment},
};
use crate::{
    block::Block,
    catalog::{Attachment, Tx, Volume, VolumeType},
    domain::AttachmentStatus,
    fault::Answer,
};

/// Which fields.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Id, name and links.
    Brief,
    /// What an answer to a creation or a change has.
    Plain,
    /// What is shown of one, and in detailed lists.
    Full,
}

impl Listed for Volume {
    const FILTERS: &'static [Filter<Self>] = &[
        text("name", |volume| named(&volume.name)),
        part("name~", |volume| named(&volume.name)),
        text("id", |volume| Some(&volume.id)),
        text("status", |volume| Some(volume.status.as_str())),
        number("size", |volume| volume.size),
        pairs("metadata", |volume| &volume.metadata),
        pairs("glance_metadata", |volume| &volume.image),
        text("migration_status", |_| None),
        zone(),
        flag("bootable", |volume| volume.bootable),
        flag("multiattach", |volume| volume.multiattach),
        text("group_id", |volume| volume.group_id.as_deref()),
        text("snapshot_id", |volume| volume.snapshot_id.as_deref()),
        text("volume_type_id", |volume| Some(&volume.type_id)),
        text("user_id", |volume| Some(&volume.user)),
        text("description", |volume| volume.description.as_deref()),
        at("created_at", |volume| Some(volume.created_us)),
        at("updated_at", |volume| volume.updated_us),
        consumes_quota(),
    ];

    fn sortable(&self, key: &str) -> Option<Sortable<'_>> {
        let text = Sortable::text;
        match key {
            "id" => text(&self.id),
            "name" | "display_name" => text(self.name.as_deref().unwrap_or_default()),
            "status" => text(self.status.as_str()),
            "size" => Some(Sortable::Number(self.size)),
            "created_at" => Some(Sortable::Number(self.created_us)),
            "updated_at" => self.updated_us.map(Sortable::Number),
            "bootable" => Some(Sortable::Number(self.bootable.into())),
            _ => None,
        }
    }
}

fn attachments(tx: &Tx<'_>, volume: &Volume) -> Answer<Vec<Value>> {
    let found = tx.found::<Attachment>(&Attachment::of_volume(&volume.id))?;
    let shown = |status| matches!(status, AttachmentStatus::Attached | AttachmentStatus::Detaching);
    let view = |one: &Attachment| {
        json!({
            "id": volume.id,
            "attachment_id": one.id,
            "volume_id": volume.id,
            "server_id": one.instance,
            "host_name": one.host,
            "device": one.mountpoint,
            "attached_at": maybe(one.attached_us),
        })
    };
    Ok(found.iter().filter(|one| shown(one.status)).map(view).collect())
}

fn brief(context: &Context, volume: &Volume) -> Map<String, Value> {
    let mut view = Map::new();
    drop(view.insert("id".to_owned(), json!(volume.id)));
    drop(view.insert("name".to_owned(), json!(volume.name)));
    drop(view.insert("links".to_owned(), context.links("volumes", &volume.id)));
    view
}

/// One volume.
pub(super) fn view(block: &Block, tx: &Tx<'_>, context: &Context, volume: &Volume, shape: Shape) -> Answer<Value> {
    let mut view = brief(context, volume);
    if shape == Shape::Brief {
        return Ok(Value::Object(view));
    }
    let kind = tx.get::<VolumeType>(&volume.type_id)?.map(|kind| kind.name);
    let mut put = |key: &str, value: Value| drop(view.insert(key.to_owned(), value));
    let mut metadata = volume.metadata.clone();
    if volume.read_only {
        drop(metadata.insert("readonly".to_owned(), "True".to_owned()));
    }
    put("status", json!(volume.status));
    put("size", json!(volume.size));
    put("availability_zone", json!(block.settings().zone));
    put("created_at", json!(moment(volume.created_us)));
    put("updated_at", maybe(volume.updated_us));
    put("attachments", Value::Array(attachments(tx, volume)?));
    put("description", json!(volume.description));
    put("volume_type", json!(kind));
    put("snapshot_id", json!(volume.snapshot_id));
    put("source_volid", json!(volume.source_volid));
    put("metadata", json!(metadata));
    put("user_id", json!(volume.user));
    put("bootable", json!(if volume.bootable { "true" } else { "false" }));
    put("encrypted", json!(false));
    put("replication_status", Value::Null);
    put("consistencygroup_id", Value::Null);
    put("multiattach", json!(volume.multiattach));
    if !volume.image.is_empty() {
        put("volume_image_metadata", json!(volume.image));
    }
    let (version, admin) = (context.version, context.caller.is_admin());
    if admin {
        put("migration_status", Value::Null);
    }
    if version.has(13) {
        put("group_id", json!(volume.group_id));
    }
    if version.has(21) && admin {
        put("provider_id", Value::Null);
    }
    if version.has(47) && volume.backup_id.is_some() {
        put("backup_id", json!(volume.backup_id));
    }
    if version.has(48) {
        put("service_uuid", Value::Null);
        put("shared_targets", json!(false));
    }
    if version.has(61) && admin {
        put("cluster_name", Value::Null);
    }
    if version.has(63) {
        put("volume_type_id", json!(volume.type_id));
    }
    if version.has(65) {
        put("consumes_quota", json!(true));
    }
    if shape == Shape::Full {
        put("os-vol-tenant-attr:tenant_id", json!(volume.project));
        if admin {
            put("os-vol-host-attr:host", json!(block.place()));
            put("os-vol-mig-status-attr:migstat", Value::Null);
            put("os-vol-mig-status-attr:name_id", Value::Null);
        }
    }
    Ok(Value::Object(view))
}
