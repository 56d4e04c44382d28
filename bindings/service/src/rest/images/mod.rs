//! Images over HTTP, under `/image`: the part of the Image API v2 that clients of block storage use. What requests mean is in
//! [`crate::block`]; who asks is settled as for Block Storage.

mod file;
mod listing;
mod patch;
mod schema;
mod view;

pub(super) use patch::{format, is_bare};

use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::{get, put},
};
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::{
    Rest,
    context::Context,
    input::{At, Body},
};
use crate::{
    block::ImageFields,
    fault::{Answer, Fault},
};

/// What paths of images begin with.
pub(crate) const PREFIX: &str = "/image";

/// Whether a request may take as long as its body does: [`file::upload`] sees to it that the body does not take for ever.
pub(crate) fn is_upload(method: &Method, path: &str) -> bool {
    *method == Method::PUT && path.starts_with("/image/v2/images/") && path.ends_with("/file")
}

pub(super) fn router() -> Router<Rest> {
    Router::new()
        .route("/image", get(versions))
        .route("/image/", get(versions))
        .route("/image/versions", get(versions))
        .route("/image/v2", get(versions))
        .route("/image/v2/", get(versions))
        .route("/image/v2/images", get(listing::list).post(create))
        .route("/image/v2/images/{id}", get(show).patch(update).delete(delete))
        .route("/image/v2/images/{id}/file", get(file::download).put(file::upload))
        .route("/image/v2/images/{id}/tags/{tag}", put(add_tag).delete(delete_tag))
        .route("/image/v2/images/{id}/members", get(members))
        .route("/image/v2/info/usage", get(usage))
        .route("/image/v2/schemas/image", get(schema::image))
        .route("/image/v2/schemas/images", get(schema::images))
}

async fn versions(State(rest): State<Rest>) -> Response {
    let version = |id: &str, status: &str| json!({"id": id, "status": status, "links": [{"rel": "self", "href": format!("{}/image/v2/", rest.url)}]});
    let older = ["v2.8", "v2.7", "v2.6", "v2.5", "v2.4", "v2.3", "v2.2", "v2.1", "v2.0"];
    let older = older.iter().map(|id| version(id, "SUPPORTED"));
    let all: Vec<Value> = std::iter::once(version("v2.9", "CURRENT")).chain(older).collect();
    (StatusCode::MULTIPLE_CHOICES, axum::Json(json!({"versions": all}))).into_response()
}

async fn create(
    State(rest): State<Rest>,
    context: Context,
    Body(body): Body<BTreeMap<String, Value>>,
) -> Answer<Response> {
    let mut fields = ImageFields::default();
    for (key, value) in body {
        match key.as_str() {
            "owner" => of_the_project(&context, &value)?,
            _ => patch::set(&mut fields, &key, value)?,
        }
    }
    let image = rest.block.create_image(&context.caller, fields)?;
    let place = format!("{}/image/v2/images/{}", rest.url, image.id);
    let mut response = (StatusCode::CREATED, axum::Json(view::image(&image))).into_response();
    if let Ok(value) = HeaderValue::from_str(&place) {
        drop(response.headers_mut().insert(header::LOCATION, value));
    }
    Ok(response)
}

/// Images are made for the token's project.
fn of_the_project(context: &Context, owner: &Value) -> Answer<()> {
    match owner.as_str() == Some(&context.caller.project) || owner.is_null() {
        true => Ok(()),
        false => Err(Fault::forbidden("You are not permitted to create images owned by another project.")),
    }
}

async fn show(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<axum::Json<Value>> {
    Ok(axum::Json(view::image(&rest.block.image(&context.caller, &id)?)))
}

async fn update(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
    Body(changes): Body<Vec<patch::Change>>,
) -> Answer<axum::Json<Value>> {
    let image = rest.block.edit_image(&context.caller, &id, |fields| {
        changes.into_iter().try_for_each(|change| patch::apply(fields, change))
    });
    Ok(axum::Json(view::image(&image?)))
}

async fn delete(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<StatusCode> {
    rest.block.delete_image(&context.caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn add_tag(
    State(rest): State<Rest>,
    context: Context,
    At((id, tag)): At<(String, String)>,
) -> Answer<StatusCode> {
    let changed = rest.block.edit_image(&context.caller, &id, |fields| {
        let _new = fields.tags.insert(tag);
        Ok(())
    });
    changed.map(|_| StatusCode::NO_CONTENT)
}

async fn delete_tag(
    State(rest): State<Rest>,
    context: Context,
    At((id, tag)): At<(String, String)>,
) -> Answer<StatusCode> {
    let changed = rest.block.edit_image(&context.caller, &id, |fields| match fields.tags.remove(&tag) {
        true => Ok(()),
        false => Err(Fault::missing("Tag", &tag)),
    });
    changed.map(|_| StatusCode::NO_CONTENT)
}

/// Images are private or public: none is shared with some.
async fn members(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<axum::Json<Value>> {
    let _image = rest.block.image(&context.caller, &id)?;
    Ok(axum::Json(json!({"members": [], "schema": "/v2/schemas/members"})))
}

/// What the project has of images, in the units of this interface: MiB.
async fn usage(State(rest): State<Rest>, context: Context) -> Answer<axum::Json<Value>> {
    let quota = rest.block.image_quota(&context.caller, &context.caller.project)?;
    let line = |name: &str, unit: i64| {
        let (limit, count) = quota.get(name).copied().unwrap_or((-1, Default::default()));
        json!({"limit": if limit < 0 { -1 } else { limit * unit }, "usage": (count.in_use + count.reserved) * unit})
    };
    let usage = json!({"image_count_total": line("images", 1), "image_size_total": line("image_gigabytes", 1024)});
    Ok(axum::Json(json!({"usage": usage})))
}
