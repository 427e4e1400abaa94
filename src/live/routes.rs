//! The HTTP API of the lab: experiments with the running server.
//!
//! The API exists only with `--lab`, which requires loopback. Without `--lab`, these paths return
//! 404, and the response names the flag.
//!
//! | route | does |
//! |---|---|
//! | `POST /lab/drop?tab=ID` | cuts the streams and WebSockets that were opened with `?tab=ID` |
//! | `POST /lab/drop?for=5s` | cuts all streams and WebSockets, and cuts new ones for that time |
//! | `GET /lab/slow/disk`, `/lab/slow/cpu` | takes 200 ms, waiting for the disk or computing |
//! | `POST /lab/flood?channel=NAME` | publishes `events=1000` events of `bytes=16KiB`, numbered from 1 |
//! | `POST /lab/delivery?to=direct`, `to=wake` | switches the delivery mode of all clients |
//! | `POST /lab/clients?count=N` | opens N local clients, which get `rate=10` events a second |
//! | `POST /lab/clients?count=N&beside=event-loop`, `beside=node` | opens as many on an event loop beside the server |
//! | `POST /lab/reopen` | disconnects all local clients, and connects them again |
//! | `POST /lab/stuck` | opens one more client, which reads nothing |
//! | `POST /lab/loop/slow/disk`, `/lab/loop/slow/cpu` | requests that handler of the event loop |
//! | `GET /lab/watch` | streams the status, and the picture of the live view |
//!
//! Every request needs the right to publish, even a GET, because a page of another origin can send
//! a GET.

use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use serde_json::json;
use threadcast::extension::{Answer, Exchange, HttpError, Route};
use threadcast::{Delivery, Event, Handle};

use super::event_loop::Engine;
use super::load_clients::Message;
use super::slow::Slow;
use super::state::{Live, TAB};
use crate::http::route::Requirement;

/// The maximum time for which new streams may be cut (`?for=`).
const CLOSED_MAX: Duration = Duration::from_secs(60);

/// The maximum number of events a second that the server publishes to the local clients.
const RATE_MAX: u32 = 100;

/// The maximum amount of data that one flood may publish, in bytes.
const FLOOD_MAX: usize = 128 * 1024 * 1024;

impl Live {
    /// Returns the routes of the lab, with which the server answers 404 unless `is_on`.
    pub(crate) fn routes(self: &Arc<Self>, is_on: bool) -> Vec<Route> {
        let requirement = Requirement {
            flags: &["--lab"],
            is_met: is_on,
            detail: "the lab is off; start the server with --lab",
        };
        let route = |methods, path, handler: fn(&Self, &Exchange<'_>) -> _| {
            let lab = Arc::clone(self);
            let handler = move |exchange: &mut Exchange<'_>, _: &[&str]| {
                exchange.check_publish(&[])?;
                handler(&lab, exchange)
            };
            Route::new(methods, path, handler).needs(requirement)
        };
        let lab = Arc::clone(self);
        vec![
            Route::watch("/lab/watch", move |exchange| lab.watch(exchange)).needs(requirement),
            route("POST", "/lab/clients", Self::open_clients),
            route("POST", "/lab/reopen", |lab, _| lab.reopen_clients()),
            route("POST", "/lab/stuck", Self::open_stuck_client),
            route("POST", "/lab/loop/slow/disk", |lab, _| lab.slow_down_loop("disk")),
            route("POST", "/lab/loop/slow/cpu", |lab, _| lab.slow_down_loop("cpu")),
            route("POST", "/lab/delivery", |_, exchange| switch_delivery(exchange)),
            route("GET", "/lab/slow/disk", |_, _| slow(Slow::Disk)),
            route("GET", "/lab/slow/cpu", |_, _| slow(Slow::Cpu)),
            route("POST", "/lab/drop", Self::drop_streams),
            route("POST", "/lab/flood", |_, exchange| flood(exchange)),
        ]
    }

    /// `POST /lab/clients`: opens or closes local clients.
    fn open_clients(&self, exchange: &Exchange<'_>) -> Result<Answer, HttpError> {
        let Some(count) = exchange.query("count") else {
            return Err(HttpError::new(400, "the parameter count is missing; add ?count=1000"));
        };
        let asked = parsed(Some(count), 0)?;
        let rate = exchange.query("rate").map(|rate| parsed(Some(rate), 0)).transpose()?;
        if rate.is_some_and(|rate| rate > RATE_MAX) {
            return Err(HttpError::new(400, "rate must be at most 100 events a second"));
        }
        let beside = exchange.query("beside").map(|name| {
            let unknown = || HttpError::new(400, "beside must be event-loop or node");
            Engine::named(&name).ok_or_else(unknown)
        });
        let beside = beside.transpose()?;
        let server = exchange.server();
        let others = server.clients().saturating_sub(self.load_clients.clients());
        let most = server.max_clients().saturating_sub(others);
        self.note_base_memory();
        let opened = exchange.local_address().and_then(|address| {
            self.load_clients.open(address, (asked, most), rate, handler(server))
        });
        let opened = opened.and_then(|()| {
            if beside.is_some() || asked == 0 || self.event_loop.process().is_some() {
                return self.event_loop.open(asked.min(most), rate, beside);
            }
            Ok(())
        });
        opened.map_err(|error| cannot_start(&error))?;
        let answer = json!({ "asked": asked, "opening": asked.min(most), "most": most });
        Ok(Answer::json(&answer))
    }

    /// `POST /lab/stuck`: opens a client that reads nothing.
    fn open_stuck_client(&self, exchange: &Exchange<'_>) -> Result<Answer, HttpError> {
        let opened = exchange
            .local_address()
            .and_then(|address| self.load_clients.open_stuck(address, handler(exchange.server())));
        let opened = opened.and_then(|()| self.event_loop.open_stuck());
        opened.map_err(|error| cannot_start(&error))?;
        Ok(Answer::json(&json!({ "opening": 1 })))
    }

    /// `POST /lab/reopen`: disconnects all local clients, and connects them again.
    fn reopen_clients(&self) -> Result<Answer, HttpError> {
        let reopened = self.load_clients.command("reopen");
        let reopened = reopened.and_then(|()| self.event_loop.command("reopen"));
        reopened.map_err(|error| cannot_start(&error))?;
        Ok(Answer::json(&json!({ "reopening": self.load_clients.clients() })))
    }

    /// `POST /lab/loop/slow/disk`, `POST /lab/loop/slow/cpu`: a client of the event loop requests
    /// its slow handler.
    fn slow_down_loop(&self, how: &str) -> Result<Answer, HttpError> {
        if self.event_loop.process().is_none() {
            let detail = "no event loop runs; start one with POST \
                          /lab/clients?count=10&beside=event-loop";
            return Err(HttpError::new(409, detail));
        }
        let sent = self.event_loop.command(&format!("slow {how}"));
        sent.map_err(|error| cannot_start(&error))?;
        Ok(Answer::json(&json!({ "requesting": how })))
    }

    /// `GET /lab/watch`: starts what publishes the picture. The server then starts the stream.
    fn watch(self: &Arc<Self>, exchange: &Exchange<'_>) -> Result<(), HttpError> {
        exchange.check_publish(&[])?;
        self.watch.start(exchange.server()).map_err(|error| cannot_start(&error))
    }

    /// `POST /lab/drop`: cuts streams and WebSockets.
    fn drop_streams(&self, exchange: &Exchange<'_>) -> Result<Answer, HttpError> {
        let closed_for = match exchange.query("for") {
            Some(text) => humantime::parse_duration(&text).map_err(|error| {
                HttpError::new(400, format!("for: {error}; send a time such as 5s"))
            })?,
            None => Duration::ZERO,
        };
        if closed_for > CLOSED_MAX {
            return Err(HttpError::new(400, "for must be at most 60s"));
        }
        let tab = exchange.query(TAB);
        if tab.is_some() && !closed_for.is_zero() {
            let detail = "tab and for cannot be used together; remove one of them";
            return Err(HttpError::new(400, detail));
        }
        let dropped = self.streams.cut(tab.as_deref(), closed_for);
        Ok(Answer::json(&json!({ "dropped": dropped })))
    }
}

/// `POST /lab/delivery`: switches the delivery mode.
fn switch_delivery(exchange: &Exchange<'_>) -> Result<Answer, HttpError> {
    let to = exchange.query("to").unwrap_or_default();
    let delivery = match &*to {
        "direct" => Delivery::Direct,
        "wake" => Delivery::Wake,
        _ => return Err(HttpError::new(400, "to must be direct or wake; send ?to=direct")),
    };
    exchange.server().switch_delivery(delivery);
    Ok(Answer::json(&json!({ "delivery": to })))
}

/// `GET /lab/slow/disk`, `GET /lab/slow/cpu`: runs a slow handler on the connection's own thread.
fn slow(slow: Slow) -> Result<Answer, HttpError> {
    let answer = slow.work().map_err(|error| HttpError::new(503, error.to_string()))?;
    Ok(Answer::json(&answer))
}

/// `POST /lab/flood`: publishes many events.
fn flood(exchange: &Exchange<'_>) -> Result<Answer, HttpError> {
    let Some(channel) = exchange.query("channel") else {
        return Err(HttpError::new(400, "the parameter channel is missing; add ?channel=NAME"));
    };
    exchange.check_publish(&[&channel])?;
    let server = exchange.server();
    let events: usize = parsed(exchange.query("events"), 1_000)?;
    let size = parsed(exchange.query("bytes"), ByteSize::kib(16))?;
    let size = usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
    if size > server.limits().event || events.saturating_mul(size) > FLOOD_MAX {
        let detail = "a flood has at most 128MiB, and each event at most --event-limit; lower \
                      events or bytes";
        return Err(HttpError::new(400, detail));
    }
    for n in 1..=events {
        let number = n.to_string();
        let padding = ".".repeat(size.saturating_sub(number.len() + 1));
        server.registry().publish(&channel, &Event::new(format!("{number} {padding}")))?;
    }
    Ok(Answer::json(&json!({ "published": events })))
}

/// Returns the function that handles the messages of the local clients' process.
fn handler(server: Handle) -> impl Fn(Message<'_>) + Send + 'static {
    move |message| match message {
        Message::Publish { channel, data } => {
            // Publishing fails after the registry is closed. The process then ends with the server.
            let _ = server.registry().publish(channel, &Event::new(data));
        }
        // Subscribers of the status get the report at once, not at the next second.
        Message::Settled => server.publish_status(),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The other routes are compared by a test in `src/http/routes.rs`.
    #[test]
    fn documented_table_has_the_routes_of_the_lab() {
        let page = include_str!("../../docs/http.md");
        let documented: Vec<&str> =
            page.lines().filter(|line| line.ends_with("| `--lab` |")).collect();
        let routes = Live::new(None).routes(true);
        let line = |route: &Route| {
            let flags = route.requirement().expect("all of them need a flag").flags;
            assert_eq!(flags, ["--lab"]);
            format!("| `{}` | {}, OPTIONS | `--lab` |", route.path(), route.methods())
        };
        assert_eq!(documented, routes.iter().map(line).collect::<Vec<_>>());
    }
}
