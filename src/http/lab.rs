//! What a page may do to the server, so that its reader sees what happens then:
//! cut streams as a bad network does, flood a channel until a slow reader
//! falls behind, have local clients come, and change who writes to them. Only with
//! `--lab`, and `--lab` only on loopback; without it these paths are 404.
//!
//! | route | does |
//! |---|---|
//! | `POST /lab/drop?tab=ID` | cuts the streams and WebSockets that were opened with `?tab=ID` |
//! | `POST /lab/drop?for=5s` | cuts everybody's, and refuses new ones for that long |
//! | `GET /lab/slow/disk`, `/lab/slow/cpu` | takes 200 ms, waiting for the disk or computing |
//! | `POST /lab/flood?channel=NAME` | publishes `events=1000` events of `bytes=16KiB` each, numbered from 1 |
//! | `POST /lab/delivery?to=direct`, `to=wake` | has the clients written to in this way from now on |
//! | `POST /lab/clients?count=N` | opens N local clients, `rate=10` events a second come to them |
//! | `POST /lab/stuck` | opens one more, which reads nothing |
//!
//! Every path and method here takes what publishing takes: a page of another origin could send a
//! GET as well.

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

/// The query parameter by which a page's streams are known as its own.
const TAB: &str = "tab";

/// The longest that everybody may be kept out.
const LONGEST: Duration = Duration::from_secs(60);

/// The most events a second that are published for the local clients.
const FASTEST: u32 = 100;

/// The most that one flood may publish.
const MOST: usize = 128 * 1024 * 1024;

/// The streams that can be cut.
#[derive(Debug, Default)]
pub(super) struct Lab {
    pub(super) load_clients: LoadClients,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    guests: HashMap<u64, (Arc<TcpStream>, Option<Box<str>>)>,
    last_key: u64,
    closed_until: Option<Instant>,
}

/// A stream that the lab knows of, until this is dropped.
#[derive(Debug)]
#[must_use = "dropping this takes the stream out of the lab's reach"]
pub(super) struct Guest<'a> {
    lab: &'a Lab,
    key: u64,
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.lab.lock().guests.remove(&self.key);
    }
}

/// Everybody was cut off a moment ago, and so is this one.
#[derive(Debug)]
pub(super) struct CutOff;

/// The page that a stream is opened by, if there is a lab to know it by.
pub(super) fn tab(exchange: &Exchange<'_>) -> Option<Box<str>> {
    exchange.server.lab.as_ref().and_then(|_| exchange.request.query(TAB)).map(Into::into)
}

/// Makes a stream known to the lab, if there is one. While everybody is cut
/// off it is cut as well, without an answer, as if the server were not there.
pub(super) fn admit<'a>(
    server: &'a ServerState,
    socket: &Arc<TcpStream>,
    tab: Option<Box<str>>,
) -> Result<Option<Guest<'a>>, CutOff> {
    let Some(lab) = &server.lab else { return Ok(None) };
    let mut state = lab.lock();
    if state.closed_until.is_some_and(|until| Instant::now() < until) {
        cut(socket);
        return Err(CutOff);
    }
    state.last_key += 1;
    let key = state.last_key;
    state.guests.insert(key, (Arc::clone(socket), tab));
    Ok(Some(Guest { lab, key }))
}

/// Without the last chunk: a client must see that this was no end.
fn cut(socket: &TcpStream) {
    // A socket that is no longer connected needs no cutting.
    let _ = socket.shutdown(Shutdown::Both);
}

impl Lab {
    /// Cuts one page's streams, or all, and says how many.
    fn drop_streams(&self, tab: Option<&str>, closed_for: Duration) -> usize {
        let mut state = self.lock();
        if !closed_for.is_zero() {
            state.closed_until = Some(Instant::now() + closed_for);
        }
        let meant = state.guests.values().filter(|(_, its)| tab.is_none() || its.as_deref() == tab);
        meant.inspect(|(socket, _)| cut(socket)).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The methods of a path of the lab.
pub(super) fn allowed(what: &str) -> Option<&'static str> {
    matches!(what, "drop" | "flood" | "delivery" | "clients" | "stuck").then_some("POST, OPTIONS")
}

/// Answers a request to a path of the lab, which begins behind its first part.
#[inline(never)] // or its frame would lie under every stream
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
        (["delivery"], Method::Post, Some(_)) => switch(exchange),
        (["clients"], Method::Post, Some(lab)) => open_clients(exchange, &lab.load_clients),
        (["stuck"], Method::Post, Some(lab)) => stick(exchange, &lab.load_clients),
        (["slow", how], Method::Get, Some(_)) => slow(exchange, how),
        _ => Ok(Reply::Answer(exchange.server.assets.not_found())),
    }
}

/// A handler that takes its time, on the connection's own thread.
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
        Some(text) => humantime::parse_duration(&text)
            .map_err(|error| HttpError::new(400, format!("for: {error}; write it as 5s")))?,
        None => Duration::ZERO,
    };
    if closed_for > LONGEST {
        return Err(HttpError::new(400, "nobody is kept out for longer than 60s"));
    }
    let tab = request.query(TAB);
    if tab.is_some() && !closed_for.is_zero() {
        let detail = "either one tab is dropped, or everybody for a time; leave out tab or for";
        return Err(HttpError::new(400, detail));
    }
    let dropped = lab.drop_streams(tab.as_deref(), closed_for);
    Ok(Reply::Answer(Answer::json(&json!({ "dropped": dropped }))))
}

fn flood(exchange: &Exchange<'_>, publisher: &PublishAccess) -> Result<Reply, HttpError> {
    let request = &exchange.request;
    let Some(channel) = request.query("channel") else {
        return Err(HttpError::new(400, "say which channel to flood: ?channel=NAME"));
    };
    publisher.check(exchange, [&*channel])?;
    let events: usize = parsed(request.query("events"), 1_000)?;
    let size = parsed(request.query("bytes"), ByteSize::kib(16))?;
    let size = usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
    if size > exchange.server.config.limits.event || events.saturating_mul(size) > MOST {
        let detail = "a flood is at most 128MiB, of events that are at most --event-limit each";
        return Err(HttpError::new(400, detail));
    }
    for n in 1..=events {
        let number = n.to_string();
        let filling = ".".repeat(size.saturating_sub(number.len() + 1));
        exchange.server.hub.publish(&channel, &Event::new(format!("{number} {filling}")))?;
    }
    Ok(Reply::Answer(Answer::json(&json!({ "published": events }))))
}

fn switch(exchange: &Exchange<'_>) -> Result<Reply, HttpError> {
    let to = exchange.request.query("to").unwrap_or_default();
    let delivery = match &*to {
        "direct" => Delivery::Direct,
        "wake" => Delivery::Wake,
        _ => return Err(HttpError::new(400, "there are two deliveries: ?to=direct and ?to=wake")),
    };
    exchange.server.switch(delivery);
    Ok(Reply::Answer(Answer::json(&json!({ "delivery": to }))))
}

fn open_clients(exchange: &Exchange<'_>, load_clients: &LoadClients) -> Result<Reply, HttpError> {
    let (server, request) = (exchange.server, &exchange.request);
    let Some(count) = request.query("count") else {
        return Err(HttpError::new(400, "say how many clients there are to be: ?count=1000"));
    };
    let asked = parsed(Some(count), 0)?;
    let rate = request.query("rate").map(|rate| parsed(Some(rate), 0)).transpose()?;
    if rate.is_some_and(|rate| rate > FASTEST) {
        return Err(HttpError::new(
            400,
            "at most 100 events a second are published for the clients",
        ));
    }
    let others = server.admission.clients().saturating_sub(load_clients.clients());
    let most = server.admission.max_clients.saturating_sub(others);
    let address = exchange.our_address();
    let opened = address.and_then(|at| load_clients.open(server, at, (asked, most), rate));
    opened.map_err(|error| no_clients(&error))?;
    let answer = json!({ "asked": asked, "opening": asked.min(most), "most": most });
    Ok(Reply::Answer(Answer::json(&answer)))
}

fn stick(exchange: &Exchange<'_>, load_clients: &LoadClients) -> Result<Reply, HttpError> {
    let stuck = exchange.our_address().and_then(|at| load_clients.stick(exchange.server, at));
    stuck.map_err(|error| no_clients(&error))?;
    Ok(Reply::Answer(Answer::json(&json!({ "opening": 1 }))))
}

/// There is no process for the clients.
fn no_clients(error: &io::Error) -> HttpError {
    let detail = format!("the local clients cannot be started: {error}; open them elsewhere");
    HttpError::new(503, detail)
}

fn parsed<T: FromStr>(text: Option<String>, default: T) -> Result<T, HttpError> {
    let Some(text) = text else { return Ok(default) };
    text.parse().map_err(|_| HttpError::new(400, format!("{text:?} is no number; see the README")))
}
