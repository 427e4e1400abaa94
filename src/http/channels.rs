//! The HTTP API of channels: subscribe, publish, list, delete.

use serde_json::{Value, json};

use super::access::{Api, PublishAccess, ReadAccess};
use super::answer::Answer;
use super::connection::Exchange;
use super::error::HttpError;
use super::mercure::check_event_name;
use super::routes::Reply;
use super::{listing, publish, streams};
use crate::event::Event;
use crate::registry::{ChannelInfo, Channels};

/// `GET /channels?channel=a&channel=b*`: subscribes to the channels in the query. Without
/// `channel`, lists all channels.
pub(super) fn subscribe_or_list(
    exchange: &Exchange<'_>,
    reader: &ReadAccess,
) -> Result<Reply, HttpError> {
    let names = exchange.request.queries("channel");
    if names.is_empty() {
        reader.check_all(exchange)?;
        let channels =
            exchange.server.hub.channels(&reader.readable()).map(|channel| info(&channel));
        return Ok(Reply::Answer(listing::answer(&json!({}), "channels", channels)));
    }
    let channels = Channels::new(names.iter().map(String::as_str))?;
    streams::channels(exchange, &channels, reader)
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

/// `GET /channels/{name}`: subscribes to a channel.
///
/// A name that ends with `*` selects all channels whose names begin with the text before the `*`.
pub(super) fn subscribe(
    exchange: &Exchange<'_>,
    name: &str,
    reader: &ReadAccess,
) -> Result<Reply, HttpError> {
    streams::channels(exchange, &Channels::new([name])?, reader)
}

/// `POST /channels/{name}`: publishes one event, or many as NDJSON.
pub(super) fn publish(exchange: &mut Exchange<'_>, name: &str) -> Result<Reply, HttpError> {
    PublishAccess::of(exchange, Api::Own)?.check(exchange, [name])?;
    let key = publish::idempotency_key(&exchange.request)?;
    let batch = publish::read(exchange)?;
    if exchange.server.config.mercure.is_on() {
        batch.events.iter().filter_map(Event::name).try_for_each(check_event_name)?;
    }
    let published = exchange.server.hub.publish_all(name, &batch.events, key.as_deref())?;
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

/// `GET /channels/{name}/subscribers`: returns the number of the channel's subscribers, and their
/// presence names.
pub(super) fn subscribers(exchange: &Exchange<'_>, name: &str) -> Reply {
    let hub = &exchange.server.hub;
    let present = hub.presence(name);
    let present =
        present.map(|(username, streams)| json!({ "username": username, "streams": streams }));
    let document = json!({ "channel": name, "subscribers": hub.subscribers(name) });
    Reply::Answer(listing::answer(&document, "present", present))
}
