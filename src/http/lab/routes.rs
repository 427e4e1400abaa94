//! The HTTP API of the lab: experiments with the running server.
//!
//! The API exists only with `--lab`, which requires loopback. Without `--lab`, these paths return
//! 404.
//!
//! | route | does |
//! |---|---|
//! | `POST /lab/drop?tab=ID` | cuts the streams and WebSockets that were opened with `?tab=ID` |
//! | `POST /lab/drop?for=5s` | cuts all streams and WebSockets, and cuts new ones for that time |
//! | `GET /lab/slow/disk`, `/lab/slow/cpu` | takes 200 ms, waiting for the disk or computing |
//! | `POST /lab/flood?channel=NAME` | publishes `events=1000` events of `bytes=16KiB`, numbered from 1 |
//! | `POST /lab/delivery?to=direct`, `to=wake` | switches the delivery mode of all clients |
//! | `POST /lab/clients?count=N` | opens N local clients, which get `rate=10` events a second |
//! | `POST /lab/stuck` | opens one more client, which reads nothing |
//!
//! Every request needs the right to publish, even a GET, because a page of another origin can send
//! a GET.

use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use serde_json::json;

use super::Lab;
use super::load_clients::Message;
use crate::broadcast::Delivery;
use crate::event::Event;
use crate::http::access::{Api, PublishAccess};
use crate::http::answer::Answer;
use crate::http::error::HttpError;
use crate::http::exchange::{Exchange, TAB};
use crate::http::reply::Reply;
use crate::http::server_state::ServerState;
use crate::http::status;
use crate::slow::Slow;
use crate::ticker;

/// The detail of the 404 without `--lab`.
pub(in crate::http) const OFF: &str = "the lab is off; start the server with --lab";

/// The maximum time for which new streams may be cut (`?for=`).
const CLOSED_MAX: Duration = Duration::from_secs(60);

/// The maximum number of events a second that the server publishes to the local clients.
const RATE_MAX: u32 = 100;

/// The maximum amount of data that one flood may publish, in bytes.
const FLOOD_MAX: usize = 128 * 1024 * 1024;

/// Returns the lab and the right to publish of a request, or fails.
///
/// The routes of the lab exist only with `--lab`.
fn enter<'a>(exchange: &Exchange<'a>) -> Result<(&'a Lab, PublishAccess), HttpError> {
    let publisher = PublishAccess::of(exchange, Api::Own)?;
    publisher.check_any(exchange)?;
    let lab = exchange.server.lab.as_ref();
    lab.map(|lab| (lab, publisher)).ok_or_else(|| HttpError::new(404, OFF))
}

/// `GET /lab/slow/disk`, `GET /lab/slow/cpu`: runs a slow handler on the connection's own thread.
pub(in crate::http) fn slow(exchange: &Exchange<'_>, slow: Slow) -> Result<Reply, HttpError> {
    enter(exchange)?;
    let answer = slow.work().map_err(|error| HttpError::new(503, error.to_string()))?;
    Ok(Reply::Answer(Answer::json(&answer)))
}

/// `POST /lab/drop`: cuts streams and WebSockets.
pub(in crate::http) fn drop_streams(exchange: &Exchange<'_>) -> Result<Reply, HttpError> {
    let (lab, _) = enter(exchange)?;
    let request = &exchange.request;
    let closed_for = match request.query("for") {
        Some(text) => humantime::parse_duration(&text).map_err(|error| {
            HttpError::new(400, format!("for: {error}; send a time such as 5s"))
        })?,
        None => Duration::ZERO,
    };
    if closed_for > CLOSED_MAX {
        return Err(HttpError::new(400, "for must be at most 60s"));
    }
    let tab = request.query(TAB);
    if tab.is_some() && !closed_for.is_zero() {
        let detail = "tab and for cannot be used together; remove one of them";
        return Err(HttpError::new(400, detail));
    }
    let dropped = lab.drop_streams(tab.as_deref(), closed_for);
    Ok(Reply::Answer(Answer::json(&json!({ "dropped": dropped }))))
}

/// `POST /lab/flood`: publishes many events.
pub(in crate::http) fn flood(exchange: &Exchange<'_>) -> Result<Reply, HttpError> {
    let (_, publisher) = enter(exchange)?;
    let request = &exchange.request;
    let Some(channel) = request.query("channel") else {
        return Err(HttpError::new(400, "the parameter channel is missing; add ?channel=NAME"));
    };
    publisher.check(exchange, [&*channel])?;
    let events: usize = parsed(request.query("events"), 1_000)?;
    let size = parsed(request.query("bytes"), ByteSize::kib(16))?;
    let size = usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
    if size > exchange.server.config.limits.event || events.saturating_mul(size) > FLOOD_MAX {
        let detail = "a flood has at most 128MiB, and each event at most --event-limit; lower \
                      events or bytes";
        return Err(HttpError::new(400, detail));
    }
    for n in 1..=events {
        let number = n.to_string();
        let padding = ".".repeat(size.saturating_sub(number.len() + 1));
        exchange.server.hub.publish(&channel, &Event::new(format!("{number} {padding}")))?;
    }
    Ok(Reply::Answer(Answer::json(&json!({ "published": events }))))
}

/// `POST /lab/delivery`: switches the delivery mode.
pub(in crate::http) fn switch_delivery(exchange: &Exchange<'_>) -> Result<Reply, HttpError> {
    enter(exchange)?;
    let to = exchange.request.query("to").unwrap_or_default();
    let delivery = match &*to {
        "direct" => Delivery::Direct,
        "wake" => Delivery::Wake,
        _ => return Err(HttpError::new(400, "to must be direct or wake; send ?to=direct")),
    };
    exchange.server.switch(delivery);
    Ok(Reply::Answer(Answer::json(&json!({ "delivery": to }))))
}

/// `POST /lab/clients`: opens or closes local clients.
pub(in crate::http) fn open_clients(exchange: &Exchange<'_>) -> Result<Reply, HttpError> {
    let load_clients = &enter(exchange)?.0.load_clients;
    let (server, request) = (exchange.server, &exchange.request);
    let Some(count) = request.query("count") else {
        return Err(HttpError::new(400, "the parameter count is missing; add ?count=1000"));
    };
    let asked = parsed(Some(count), 0)?;
    let rate = request.query("rate").map(|rate| parsed(Some(rate), 0)).transpose()?;
    if rate.is_some_and(|rate| rate > RATE_MAX) {
        return Err(HttpError::new(400, "rate must be at most 100 events a second"));
    }
    let others = server.admission.clients().saturating_sub(load_clients.clients());
    let most = server.admission.max_clients.saturating_sub(others);
    let address = exchange.local_address();
    let opened = address.and_then(|at| load_clients.open(at, (asked, most), rate, handler(server)));
    opened.map_err(|error| cannot_start(&error))?;
    let answer = json!({ "asked": asked, "opening": asked.min(most), "most": most });
    Ok(Reply::Answer(Answer::json(&answer)))
}

/// `POST /lab/stuck`: opens a client that reads nothing.
pub(in crate::http) fn open_stuck_client(exchange: &Exchange<'_>) -> Result<Reply, HttpError> {
    let load_clients = &enter(exchange)?.0.load_clients;
    let address = exchange.local_address();
    let opened = address.and_then(|at| load_clients.open_stuck(at, handler(exchange.server)));
    opened.map_err(|error| cannot_start(&error))?;
    Ok(Reply::Answer(Answer::json(&json!({ "opening": 1 }))))
}

/// Returns the function that handles the messages of the local clients' process.
fn handler(server: &Arc<ServerState>) -> impl Fn(Message<'_>) + Send + 'static {
    let server = Arc::clone(server);
    move |message| match message {
        Message::Publish { channel, data } => {
            // Publishing fails after the registry is closed. The process then ends with the server.
            let _ = server.hub.publish(channel, &Event::new(data));
        }
        Message::Settled => {
            if server.clock.subscribers(ticker::STATUS) > 0 {
                // Subscribers of the status get the report at once, not at the next second.
                let _ = server.clock.publish(ticker::STATUS, &status::event(&server));
            }
        }
    }
}

/// Returns the 503 for local clients whose process cannot be started.
fn cannot_start(error: &io::Error) -> HttpError {
    let detail =
        format!("cannot start the local clients: {error}; open clients from another program");
    HttpError::new(503, detail)
}

fn parsed<T: FromStr>(text: Option<String>, default: T) -> Result<T, HttpError> {
    let Some(text) = text else { return Ok(default) };
    text.parse().map_err(|_| {
        HttpError::new(400, format!("{text:?} is not a valid number; see docs/http.md"))
    })
}
