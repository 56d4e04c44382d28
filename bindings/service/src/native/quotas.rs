//! Quotas that Block Storage does not have: those of images.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    domain::{Count, Resource},
    fault::{Answer, Fault},
    rest::{At, Body, Context, Rest},
};

/// A limit, and what is there.
#[derive(Serialize, ToSchema)]
pub(super) struct Line {
    /// -1: none.
    limit: i64,
    in_use: i64,
    /// Promised to what is under way.
    reserved: i64,
}

/// What a project may have of images.
#[derive(Serialize, ToSchema)]
pub(super) struct ImageQuota {
    images: Line,
    /// Of what was sent, in whole GiB each; of qcow2 images also of their disks.
    image_gigabytes: Line,
}

/// New limits; those that are left out stay.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ImageLimits {
    images: Option<i64>,
    image_gigabytes: Option<i64>,
}

fn view(rest: &Rest, context: &Context, project: &str) -> Answer<Json<ImageQuota>> {
    let quota = rest.block.image_quota(&context.caller, project)?;
    let line = |resource: Resource| {
        let (limit, Count { in_use, reserved }) = quota.get(resource.as_str()).copied().unwrap_or_default();
        Line { limit, in_use, reserved }
    };
    Ok(Json(ImageQuota { images: line(Resource::Images), image_gigabytes: line(Resource::ImageGigabytes) }))
}

/// What a project may have of images, and has.
#[utoipa::path(get, path = "/cairn/v1/quotas/{project}/images", tag = "quotas", params(("project" = String, Path)),
    responses((status = 200, description = "Limits, and what is there.", body = ImageQuota)))]
pub(super) async fn show(
    State(rest): State<Rest>,
    context: Context,
    At(project): At<String>,
) -> Answer<Json<ImageQuota>> {
    view(&rest, &context, &project)
}

/// Sets what a project may have of images (administrators).
#[utoipa::path(patch, path = "/cairn/v1/quotas/{project}/images", tag = "quotas", params(("project" = String, Path)),
    request_body = ImageLimits, responses((status = 200, description = "As it is now.", body = ImageQuota)))]
pub(super) async fn change(
    State(rest): State<Rest>,
    context: Context,
    At(project): At<String>,
    Body(limits): Body<ImageLimits>,
) -> Answer<Json<ImageQuota>> {
    let wanted = [(Resource::Images, limits.images), (Resource::ImageGigabytes, limits.image_gigabytes)];
    let wanted: Vec<_> = wanted.into_iter().filter_map(|(resource, limit)| Some((resource, limit?))).collect();
    if wanted.is_empty() {
        return Err(Fault::bad("nothing is changed: name images or image_gigabytes"));
    }
    rest.block.set_image_quota(&context.caller, &project, &wanted)?;
    view(&rest, &context, &project)
}
