//! The HTTP API of channels: subscribe, publish, list, delete.

use serde_json::{Value, json};

use super::access::{Api, PublishAccess, ReadAccess, count_published};
use super::answer::Answer;
use super::error::HttpError;
use super::exchange::Exchange;
use super::mercure::reserved::check_event_name;
use super::reply::Reply;
use super::trace::log_publish;
use super::{history, ingest, publish, streams};
#[cfg(feature = "demo")]
use crate::demo;
use crate::event::Event;
use crate::registry::ChannelInfo;

/// The channel of the demo chat.
const CHAT: &str = "chat";

/// `GET /channels?channel=a&channel=b*`: subscribes to these channels. Without `channel`, lists all
/// channels.
pub(super) fn subscribe_or_list(exchange: &Exchange<'_>) -> Result<Reply, HttpError> {
    let names = exchange.request.queries("channel");
    if names.is_empty() {
        return list(exchange);
    }
    if exchange.request.query("format").is_some() {
        let detail = "a page has the history of one channel; GET /channels/NAME, or leave format \
                      out for a stream";
        return Err(HttpError::new(400, detail));
    }
    streams::channels(exchange, &names)
}

#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
fn list(exchange: &Exchange<'_>) -> Result<Reply, HttpError> {
    let reader = ReadAccess::of(exchange, Api::Own)?;
    reader.check_all(exchange)?;
    let channels = exchange.server.hub.channels(&reader.readable()).map(|channel| info(&channel));
    Ok(Reply::Answer(Answer::json_list(&json!({}), "channels", channels)))
}

fn info(channel: &ChannelInfo) -> Value {
    json!({
        "name": channel.name,
        "subscribers": channel.subscribers,
        "events": channel.events,
        "bytes": channel.bytes,
        "last_id": channel.last_id.map(|id| id.to_string()),
    })
}

/// `GET /channels/{name}`: subscribes to a channel, or returns a page of its history.
///
/// A stream of a name that ends with `*` has all channels that begin with the rest of the name.
pub(super) fn read(exchange: &Exchange<'_>, name: &str) -> Result<Reply, HttpError> {
    match history::format(&exchange.request)? {
        None => streams::channels(exchange, &[name]),
        Some(format) => history::page(exchange, name, format),
    }
}

/// `POST /channels/{name}`: publishes one event, many as NDJSON, or an event stream as it arrives.
pub(super) fn publish(exchange: &mut Exchange<'_>, name: &str) -> Result<Reply, HttpError> {
    let access = PublishAccess::of(exchange, Api::Own)?;
    access.check(exchange, [name])?;
    if publish::content_type(&exchange.request) == "text/event-stream" {
        return ingest::begin(exchange, name, access);
    }
    let key = publish::idempotency_key(&exchange.request)?;
    let batch = publish::read(exchange)?;
    if exchange.server.config.mercure.is_on() {
        batch.events.iter().filter_map(Event::name).try_for_each(check_event_name)?;
    }
    count_published(exchange, Api::Own, batch.events.len())?;
    let published = exchange.server.hub.publish_all(name, &batch.events, key.as_deref())?;
    log_publish(exchange, name, &published);
    let mut answer = json!({ "id": published.id.to_string() });
    if let [event] = &batch.events[..]
        && let Some(id) = event.id()
    {
        answer["own_id"] = id.into();
    }
    answer["subscribers"] = published.subscribers.into();
    if batch.is_many {
        answer["count"] = published.count.into();
    }
    Ok(Reply::Answer(Answer::json(&answer)))
}

/// `DELETE /channels/{name}`: deletes the channel's history.
pub(super) fn delete(exchange: &Exchange<'_>, name: &str) -> Result<Reply, HttpError> {
    PublishAccess::of(exchange, Api::Own)?.check(exchange, [name])?;
    if !exchange.server.hub.forget(name)? {
        return Err(HttpError::new(404, "there is no such channel; GET /channels lists all"));
    }
    Ok(Reply::Answer(Answer::new(204)))
}

/// `GET /channels/{name}/subscribers`: returns the number of subscribers, and the presence names.
pub(super) fn subscribers(exchange: &Exchange<'_>, name: &str) -> Result<Reply, HttpError> {
    ReadAccess::of(exchange, Api::Own)?;
    let hub = &exchange.server.hub;
    let present = hub.presence(name);
    let present =
        present.map(|(username, streams)| json!({ "username": username, "streams": streams }));
    let document = json!({ "channel": name, "subscribers": hub.subscribers(name) });
    Ok(Reply::Answer(Answer::json_list(&document, "present", present)))
}

/// `POST /send-data`: publishes a message to the demo chat and returns it.
#[cfg(feature = "demo")]
pub(super) fn send_data(exchange: &mut Exchange<'_>) -> Result<Reply, HttpError> {
    PublishAccess::of(exchange, Api::Own)?.check(exchange, [CHAT])?;
    if publish::content_type(&exchange.request) != "application/json" {
        let detail = "the body must be JSON; send it with Content-Type: application/json";
        return Err(HttpError::new(415, detail));
    }
    let body = exchange.body()?;
    let body = publish::json(&body)?;
    let Some(message) = body["message"].as_str() else {
        return Err(HttpError::new(400, "the body must be {\"message\": \"…\"}"));
    };
    let username = body["username"].as_str().filter(|name| !name.is_empty()).unwrap_or("guest");
    log::debug!("{} sent {message:?}", exchange.client());
    count_published(exchange, Api::Own, 1)?;
    exchange.server.hub.publish(CHAT, &demo::chat_message(username, message))?;
    let answer = json!({ "status": "success", "receivedMessage": message });
    Ok(Reply::Answer(Answer::json(&answer)))
}
