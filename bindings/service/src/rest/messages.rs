//! `/messages`: why something that was asked for failed afterwards.

use axum::extract::State;
use http::StatusCode;
use serde_json::{Value, json};

use super::{
    Rest,
    context::Context,
    filters::{Filter, text},
    input::{At, Query},
    listing::{Collection, Listed, Listing, Sortable},
    time::moment,
};
use crate::{
    catalog::{MESSAGE_TIME, Message},
    fault::Answer,
};

/// Since when there are messages.
const MESSAGES: u32 = 3;
/// All of them tell of what failed.
const LEVEL: &str = "ERROR";

impl Listed for Message {
    const FILTERS: &'static [Filter<Self>] = &[
        text("resource_uuid", |message| Some(&message.resource)),
        text("resource_type", |message| Some(&message.resource_type)),
        text("event_id", |message| Some(&message.event)),
        text("request_id", |message| Some(&message.request)),
        text("message_level", |_| Some(LEVEL)),
    ];

    fn sortable(&self, key: &str) -> Option<Sortable<'_>> {
        match key {
            "id" => Sortable::text(&self.id),
            "created_at" => Some(Sortable::Number(self.created_us)),
            _ => None,
        }
    }
}

fn view(context: &Context, message: &Message) -> Value {
    json!({
        "id": message.id,
        "event_id": message.event,
        "user_message": message.text,
        "message_level": LEVEL,
        "resource_type": message.resource_type,
        "resource_uuid": message.resource,
        "request_id": message.request,
        "created_at": moment(message.created_us),
        "guaranteed_until": moment(message.created_us.saturating_add(MESSAGE_TIME)),
        "links": context.links("messages", &message.id),
    })
}

pub(super) async fn list(State(rest): State<Rest>, context: Context, query: Query) -> Answer<axum::Json<Collection>> {
    context.needs(MESSAGES)?;
    let mut query = query.0;
    // Clients have no word for all projects here: they name one.
    if query.contains_key("project_id") {
        let _same = query.entry("all_tenants".to_owned()).or_insert_with(|| "1".to_owned());
    }
    let listing = Listing::of(&context, query)?;
    let page = listing.page::<Message>(&rest.block, &context)?;
    let items = page.items.iter().map(|message| view(&context, message)).collect();
    listing.answer(&context, "messages", &page, items).map(axum::Json)
}

pub(super) async fn show(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<axum::Json<Value>> {
    context.needs(MESSAGES)?;
    let message: Message = rest.block.find(&context.caller, &id)?;
    Ok(axum::Json(json!({"message": view(&context, &message)})))
}

pub(super) async fn delete(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<StatusCode> {
    context.needs(MESSAGES)?;
    let message: Message = rest.block.find(&context.caller, &id)?;
    rest.block.change(&context.caller, |tx| tx.remove::<Message>(&message.id))?;
    Ok(StatusCode::NO_CONTENT)
}
