//! `/messages`: why something that was asked for failed afterwards.

use axum::extract::State;
use http::StatusCode;
use serde_json::{Value, json};

use super::{
    Rest,
    context::Context,
    input::{At, Query},
    listing::{Listed, Listing, Sortable},
    time::moment,
};
use crate::{catalog::Message, fault::Answer};

/// Since when there are messages.
const MESSAGES: u32 = 3;

impl Listed for Message {
    fn sortable(&self, key: &str) -> Option<Sortable> {
        match key {
            "id" => Some(Sortable::Text(self.id.clone())),
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
        "message_level": "ERROR",
        "resource_type": message.resource_type,
        "resource_uuid": message.resource,
        "request_id": message.request,
        "created_at": moment(message.created_us),
        "guaranteed_until": null,
        "links": context.links("messages", &message.id),
    })
}

pub(super) async fn list(State(rest): State<Rest>, context: Context, query: Query) -> Answer<axum::Json<Value>> {
    context.needs(MESSAGES)?;
    let listing = Listing::of(&context, query.0)?;
    let fits = |message: &Message| {
        listing.is("resource_uuid", &message.resource)
            && listing.is("resource_type", &message.resource_type)
            && listing.is("event_id", &message.event)
            && listing.is("request_id", &message.request)
    };
    let page = listing.page::<Message>(&rest.block, &context, fits)?;
    let items = page.items.iter().map(|message| view(&context, message)).collect();
    Ok(axum::Json(listing.answer(&context, "messages", &page, items)))
}

pub(super) async fn show(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<axum::Json<Value>> {
    context.needs(MESSAGES)?;
    let message: Message = rest.block.find(&context.caller, &id)?;
    Ok(axum::Json(json!({"message": view(&context, &message)})))
}

pub(super) async fn delete(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<StatusCode> {
    context.needs(MESSAGES)?;
    let message: Message = rest.block.find(&context.caller, &id)?;
    rest.block.catalog().write(|tx| tx.remove::<Message>(&message.id))?;
    Ok(StatusCode::NO_CONTENT)
}
