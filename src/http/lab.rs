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

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use serde_json::json;
use tiny_http::Method;

use super::ServerState;
use super::access::{Api, PublishAccess};
use super::answer::Answer;
use super::connection::Exchange;
use super::error::HttpError;
use super::load_clients::LoadClients;
use super::routes::Reply;
use crate::broadcast::Delivery;
use crate::event::Event;
use crate::slow::Slow;

/// The first part of every path of the lab.
pub(super) const ROOT: &str = "lab";

/// The query parameter that assigns a stream to the page that opened it.
const TAB: &str = "tab";

/// The maximum time for which new streams may be cut (`?for=`).
const CLOSED_MAX: Duration = Duration::from_secs(60);

/// The maximum number of events a second that the server publishes to the local clients.
const RATE_MAX: u32 = 100;

/// The maximum amount of data that one flood may publish, in bytes.
const FLOOD_MAX: usize = 128 * 1024 * 1024;

/// The state of the lab: the streams that it can cut, and the local clients.
#[derive(Debug, Default)]
pub(super) struct Lab {
    pub(super) load_clients: LoadClients,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The socket of each tracked stream, and the page that opened it.
    streams: HashMap<u64, (Arc<TcpStream>, Option<Box<str>>)>,
    last_key: u64,
    closed_until: Option<Instant>,
}

/// Keeps a stream tracked by the lab until this value is dropped.
#[derive(Debug)]
#[must_use = "dropping this untracks the stream"]
pub(super) struct Tracked<'a> {
    lab: &'a Lab,
    key: u64,
}

impl Drop for Tracked<'_> {
    fn drop(&mut self) {
        self.lab.lock().streams.remove(&self.key);
    }
}

/// The error of a stream that was cut because `?for=` cuts all new streams.
#[derive(Debug)]
pub(super) struct CutOff;

/// Returns the id of the page that opened a stream (`?tab=`), or `None` without `--lab`.
pub(super) fn tab(exchange: &Exchange<'_>) -> Option<Box<str>> {
    exchange.server.lab.as_ref().and_then(|_| exchange.request.query(TAB)).map(Into::into)
}

/// Tracks a stream, if the server has `--lab`.
///
/// While new streams are cut (`?for=`), closes the connection without a response, as if the server
/// were down, and returns an error.
pub(super) fn admit<'a>(
    server: &'a ServerState,
    socket: &Arc<TcpStream>,
    tab: Option<Box<str>>,
) -> Result<Option<Tracked<'a>>, CutOff> {
    let Some(lab) = &server.lab else { return Ok(None) };
    let mut state = lab.lock();
    if state.closed_until.is_some_and(|until| Instant::now() < until) {
        cut(socket);
        return Err(CutOff);
    }
    state.last_key += 1;
    let key = state.last_key;
    state.streams.insert(key, (Arc::clone(socket), tab));
    Ok(Some(Tracked { lab, key }))
}

/// Closes a socket without the last chunk, so that the client detects an error and not a normal
/// end.
fn cut(socket: &TcpStream) {
    let _ = socket.shutdown(Shutdown::Both); // fails only if the socket is not connected
}

impl Lab {
    /// Cuts the streams of one page, or of all, and returns the number of streams that were cut.
    fn drop_streams(&self, tab: Option<&str>, closed_for: Duration) -> usize {
        let mut state = self.lock();
        if !closed_for.is_zero() {
            state.closed_until = Some(Instant::now() + closed_for);
        }
        let selected =
            state.streams.values().filter(|(_, its)| tab.is_none() || its.as_deref() == tab);
        selected.inspect(|(socket, _)| cut(socket)).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the `Allow` header of a path of the lab.
pub(super) fn allowed(what: &str) -> Option<&'static str> {
    matches!(what, "drop" | "flood" | "delivery" | "clients" | "stuck").then_some("POST, OPTIONS")
}

/// Answers a request to a path of the lab. `path` does not contain the first part, [`ROOT`].
#[inline(never)] // inlining would enlarge the stack of every stream
pub(super) fn answer(
    exchange: &Exchange<'_>,
    path: &[&str],
    method: &Method,
) -> Result<Reply, HttpError> {
    let publisher = PublishAccess::of(exchange, Api::Own)?;
    publisher.check_any(exchange)?;
    match (path, method, &exchange.server.lab) {
        (["drop"], Method::Post, Some(lab)) => drop_streams(exchange, lab),
        (["flood"], Method::Post, Some(_)) => flood(exchange, &publisher),
        (["delivery"], Method::Post, Some(_)) => switch_delivery(exchange),
        (["clients"], Method::Post, Some(lab)) => open_clients(exchange, &lab.load_clients),
        (["stuck"], Method::Post, Some(lab)) => open_stuck_client(exchange, &lab.load_clients),
        (["slow", how], Method::Get, Some(_)) => slow(exchange, how),
        _ => Ok(Reply::Answer(exchange.server.assets.not_found())),
    }
}

/// Runs a slow handler on the connection's own thread.
fn slow(exchange: &Exchange<'_>, how: &str) -> Result<Reply, HttpError> {
    let Some(slow) = Slow::named(how) else {
        return Ok(Reply::Answer(exchange.server.assets.not_found()));
    };
    let answer = slow.work().map_err(|error| HttpError::new(503, error.to_string()))?;
    Ok(Reply::Answer(Answer::json(&answer)))
}

fn drop_streams(exchange: &Exchange<'_>, lab: &Lab) -> Result<Reply, HttpError> {
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

fn flood(exchange: &Exchange<'_>, publisher: &PublishAccess) -> Result<Reply, HttpError> {
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

fn switch_delivery(exchange: &Exchange<'_>) -> Result<Reply, HttpError> {
    let to = exchange.request.query("to").unwrap_or_default();
    let delivery = match &*to {
        "direct" => Delivery::Direct,
        "wake" => Delivery::Wake,
        _ => return Err(HttpError::new(400, "to must be direct or wake; send ?to=direct")),
    };
    exchange.server.switch(delivery);
    Ok(Reply::Answer(Answer::json(&json!({ "delivery": to }))))
}

fn open_clients(exchange: &Exchange<'_>, load_clients: &LoadClients) -> Result<Reply, HttpError> {
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
    let opened = address.and_then(|at| load_clients.open(server, at, (asked, most), rate));
    opened.map_err(|error| cannot_start(&error))?;
    let answer = json!({ "asked": asked, "opening": asked.min(most), "most": most });
    Ok(Reply::Answer(Answer::json(&answer)))
}

fn open_stuck_client(
    exchange: &Exchange<'_>,
    load_clients: &LoadClients,
) -> Result<Reply, HttpError> {
    let opened =
        exchange.local_address().and_then(|at| load_clients.open_stuck(exchange.server, at));
    opened.map_err(|error| cannot_start(&error))?;
    Ok(Reply::Answer(Answer::json(&json!({ "opening": 1 }))))
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
