//! `/volumes/{id}/action`.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::{
    Rest,
    context::Context,
    images::{format, is_bare},
    input::{At, Body, Flag, Number, arguments},
};
use crate::{
    block::{Attach, NewImageOfVolume},
    catalog::{Volume, VolumeType},
    fault::{Answer, Fault, FaultKind},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Extend {
    new_size: Number,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Older {
    #[serde(default)]
    instance_uuid: Option<String>,
    #[serde(default)]
    host_name: Option<String>,
    #[serde(default)]
    mountpoint: Option<String>,
    #[serde(default)]
    mode: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Detach {
    #[serde(default)]
    attachment_id: Option<String>,
    #[serde(default)]
    connector: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Connector {
    connector: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Retype {
    new_type: String,
    #[serde(default)]
    migration_policy: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reset {
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    attach_status: Option<String>,
    #[serde(default)]
    migration_status: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bootable {
    bootable: Flag,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadOnly {
    readonly: Flag,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revert {
    snapshot_id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageMetadata {
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UploadImage {
    image_name: String,
    #[serde(default)]
    force: Option<Flag>,
    #[serde(default)]
    disk_format: Option<String>,
    #[serde(default)]
    container_format: Option<String>,
    #[serde(default)]
    visibility: Option<String>,
    #[serde(default)]
    protected: Option<Flag>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageKey {
    key: String,
}

/// Since when an attached volume can be extended.
const EXTEND_ONLINE: u32 = 42;
const REVERT: u32 = 40;

pub(super) async fn action(
    State(rest): State<Rest>,
    mut context: Context,
    At(id): At<String>,
    Body(body): Body<BTreeMap<String, Value>>,
) -> Answer<Response> {
    let (name, value) = context.action(body)?;
    // What is not there for the caller has no actions either.
    let _volume: Volume = rest.block.find(&context.caller, &id)?;
    if let Some(answer) = attaching(&rest, &context, &id, &name, value.clone()).await? {
        return Ok(answer);
    }
    if let Some(answer) = image_metadata(&rest, &context, &id, &name, value.clone())? {
        return Ok(answer);
    }
    if name == "os-volume_upload_image" {
        return upload_image(&rest, &context, &id, arguments(&name, value)?).await;
    }
    changing(&rest, &context, &id, &name, value).await
}

/// An image of the volume.
async fn upload_image(rest: &Rest, context: &Context, id: &str, wanted: UploadImage) -> Answer<Response> {
    let has_visibility = context.version.has(1);
    if !has_visibility && (wanted.visibility.is_some() || wanted.protected.is_some()) {
        return Err(Fault::bad("visibility and protected take API version 3.1 or later"));
    }
    let _bare = is_bare(wanted.container_format.as_deref().unwrap_or("bare"))?;
    let public = match wanted.visibility.as_deref() {
        None | Some("private") => false,
        Some("public") => true,
        Some(_) => return Err(Fault::bad("visibility is private or public: images are not shared with some")),
    };
    let new = NewImageOfVolume {
        name: wanted.image_name,
        format: format(wanted.disk_format.as_deref().unwrap_or("raw"))?,
        public,
        protected: wanted.protected.unwrap_or_default().0,
        force: wanted.force.unwrap_or_default().0,
    };
    let (volume, image) = rest.block.volume_to_image(&context.caller, id, new).await?;
    let kind = rest.block.catalog().read().get::<VolumeType>(&volume.type_id)?;
    let mut view = json!({
        "id": volume.id,
        "updated_at": super::time::maybe(volume.updated_us),
        "status": volume.status,
        "display_description": volume.description,
        "size": volume.size,
        "volume_type": kind.map(|kind| json!({"id": kind.id, "name": kind.name})),
        "image_id": image.id,
        "container_format": "bare",
        "disk_format": image.format,
        "image_name": image.name,
    });
    if let Some(fields) = view.as_object_mut().filter(|_| has_visibility) {
        drop(fields.insert("visibility".to_owned(), json!(if image.public { "public" } else { "private" })));
        drop(fields.insert("protected".to_owned(), json!(image.protected)));
    }
    Ok((StatusCode::ACCEPTED, axum::Json(json!({"os-volume_upload_image": view}))).into_response())
}

fn accepted() -> Response {
    StatusCode::ACCEPTED.into_response()
}

async fn changing(rest: &Rest, context: &Context, id: &str, name: &str, value: Value) -> Answer<Response> {
    let (block, caller) = (&rest.block, &context.caller);
    match name {
        "os-extend" => {
            let size = arguments::<Extend>(name, value)?.new_size.gib()?;
            block.extend_volume(caller, id, size, context.version.has(EXTEND_ONLINE)).await?;
        }
        "os-retype" => {
            let wanted: Retype = arguments(name, value)?;
            if !matches!(wanted.migration_policy.as_deref(), None | Some("never" | "on-demand")) {
                return Err(Fault::bad("migration_policy is never or on-demand"));
            }
            block.retype_volume(caller, id, &wanted.new_type)?;
        }
        "revert" => {
            context.needs(REVERT)?;
            block.revert_volume(caller, id, &arguments::<Revert>(name, value)?.snapshot_id, false)?;
        }
        "os-reset_status" => {
            let reset: Reset = arguments(name, value)?;
            if reset.migration_status.as_deref().is_some_and(|status| status != "none") {
                return Err(Fault::bad("no migration is ever under way here: migration_status is none"));
            }
            let (status, attached) = (reset.status.as_deref(), reset.attach_status.as_deref());
            if status.is_some() || attached.is_some() || reset.migration_status.is_none() {
                block.reset_volume(caller, id, status, attached).await?;
            }
        }
        "os-force_delete" => {
            caller.require_admin("volume_extension:volume_admin_actions:force_delete")?;
            block.delete_volume(caller, id, false, true)?;
        }
        "os-set_bootable" => {
            block.set_bootable(caller, id, arguments::<Bootable>(name, value)?.bootable.0)?;
            return Ok(StatusCode::OK.into_response());
        }
        "os-update_readonly_flag" => {
            block.set_read_only(caller, id, arguments::<ReadOnly>(name, value)?.readonly.0).await?;
        }
        "os-migrate_volume" | "os-migrate_volume_completion" | "os-unmanage" | "os-reimage" => {
            return Err(Fault::new(FaultKind::Unsupported, format!("{name} is not served here")));
        }
        _ => {
            let shown: String = name.chars().take(64).collect();
            return Err(Fault::bad(format!("There is no such action: {shown}")));
        }
    }
    Ok(accepted())
}

async fn attaching(rest: &Rest, context: &Context, id: &str, name: &str, value: Value) -> Answer<Option<Response>> {
    let (block, caller) = (&rest.block, &context.caller);
    match name {
        "os-reserve" => block.reserve_volume(caller, id).await?,
        "os-unreserve" => block.unreserve_volume(caller, id).await?,
        "os-begin_detaching" => block.begin_detaching(caller, id)?,
        "os-roll_detaching" => block.roll_detaching(caller, id)?,
        "os-attach" => {
            let older: Older = arguments(name, value)?;
            let attach = Attach {
                instance: older.instance_uuid,
                host: older.host_name,
                mountpoint: older.mountpoint,
                mode: older.mode.unwrap_or_else(|| "rw".to_owned()),
            };
            block.attach_volume(caller, id, attach)?;
        }
        "os-detach" | "os-force_detach" => {
            let force = name == "os-force_detach";
            if force {
                caller.require_admin("volume_extension:volume_admin_actions:force_detach")?;
            }
            let detach: Option<Detach> = arguments(name, value)?;
            let Detach { attachment_id, connector: _unused } = detach.unwrap_or_default();
            block.detach_volume(caller, id, attachment_id.as_deref(), force).await?;
        }
        "os-initialize_connection" => {
            let connector = arguments::<Connector>(name, value)?.connector;
            let connection = block.initialize_connection(caller, id, &connector).await?;
            let body = axum::Json(json!({"connection_info": connection}));
            return Ok(Some((StatusCode::OK, body).into_response()));
        }
        "os-terminate_connection" => {
            let _connector: Connector = arguments(name, value)?;
            block.terminate_connection(caller, id).await?;
        }
        _ => return Ok(None),
    }
    Ok(Some(accepted()))
}

/// What is known of the image that a volume came from.
fn image_metadata(rest: &Rest, context: &Context, id: &str, name: &str, value: Value) -> Answer<Option<Response>> {
    let (block, caller) = (&rest.block, &context.caller);
    let volume = match name {
        "os-show_image_metadata" => block.find::<Volume>(caller, id)?,
        "os-set_image_metadata" => {
            let wanted: ImageMetadata = arguments(name, value)?;
            crate::domain::check_metadata(&wanted.metadata).map_err(Fault::bad)?;
            block.change_volume(caller, id, |volume| {
                volume.image.extend(wanted.metadata);
                crate::domain::check_metadata(&volume.image).map_err(Fault::bad)
            })?
        }
        "os-unset_image_metadata" => {
            let key = arguments::<ImageKey>(name, value)?.key;
            drop(block.change_volume(caller, id, |volume| match volume.image.remove(&key) {
                Some(_) => Ok(()),
                None => Err(Fault::missing("Metadata item", &key)),
            })?);
            return Ok(Some(StatusCode::OK.into_response()));
        }
        _ => return Ok(None),
    };
    Ok(Some(axum::Json(json!({"metadata": volume.image})).into_response()))
}
