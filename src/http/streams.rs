//! Starts streams: creates the preamble for a request, and then runs the stream's loop, which is in
//! [`crate::stream`].

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;
use socket2::Socket as Connection;

use super::access::{Api, PublishAccess, ReadAccess};
use super::admission::StreamPermit;
use super::answer::{Answer, Headers, stream_head};
use super::error::HttpError;
use super::exchange::Exchange;
use super::forwarded::Client;
use super::hooks;
use super::mercure::reserved::is_reserved;
use super::reply::{LastReply, Reply};
use super::request::Request;
use super::server_state::ServerState;
use super::{cors, forwarded};
use crate::broadcast::Delivery;
use crate::counters::CONNECTIONS;
#[cfg(feature = "demo")]
use crate::demo::DemoStream;
use crate::error::PublishError;
use crate::event::{Frame, Framing};
use crate::limits::RETRY;
use crate::registry::{Channels, Readable, Registry, Start, Subscription};
use crate::stream::{self, End, Heartbeat, Outcome, Outlet, Socket, StreamCounts, Writer};
use crate::ticker;

/// Answers with a demo stream.
#[cfg(feature = "demo")]
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
pub(super) fn demo(exchange: &Exchange<'_>, demo: DemoStream) -> Result<Reply, HttpError> {
    let reader = ReadAccess::of(exchange, Api::Own)?;
    let last_event_id = last_event_id(&exchange.request)?.unwrap_or_default().into_bytes();
    if demo.is_over(&last_event_id) {
        // 204 tells a browser not to reconnect (WHATWG HTML §9.2).
        return Ok(Reply::Answer(Answer::new(204)));
    }
    let permit = admit(exchange)?;
    let preamble = preamble(exchange, &demo.preamble(), Headers::new());
    if exchange.request.is_head() {
        return Ok(Reply::Head(preamble));
    }
    let source = match demo.clock() {
        Some(channel) => {
            live(exchange, preamble, subscribe_to_clock(exchange, &[channel])?, &reader)
        }
        None => scripted(exchange, preamble, demo, last_event_id),
    };
    Ok(reply(exchange, source, permit, None))
}

/// Answers with a stream of the events of the channels with these names.
pub(super) fn channels<S: AsRef<str>>(
    exchange: &Exchange<'_>,
    names: &[S],
) -> Result<Reply, HttpError> {
    let reader = &ReadAccess::of(exchange, Api::Own)?;
    let channels = &selected(names)?;
    let presence = presence(exchange, channels, reader)?;
    let permit = admit(exchange)?;
    let start = start(&exchange.request)?;
    if exchange.server.hub.is_over(channels, &start) {
        return Ok(over());
    }
    if exchange.request.is_head() {
        return Ok(Reply::Head(preamble(exchange, &[], Headers::new()))); // HEAD does not subscribe
    }
    let subscription = subscribe(exchange, channels, &start, reader, presence)?;
    let first = [first_frame(&exchange.request, &subscription, &CURSOR_AS_EVENT)];
    let preamble = preamble(exchange, &first, Headers::new());
    Ok(reply(exchange, live(exchange, preamble, subscription, reader), permit, None))
}

/// The response to a client that has received the ends of all its channels: 204 tells a browser not
/// to reconnect (WHATWG HTML §9.2). No cache may keep it, because the channels may go on.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
pub(super) fn over() -> Reply {
    Reply::Answer(Answer::new(204).with("Cache-Control", "no-store"))
}

#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
fn selected<S: AsRef<str>>(names: &[S]) -> Result<Channels, HttpError> {
    Ok(Channels::new(names.iter().map(AsRef::as_ref))?)
}

/// Subscribes to the channels from `start` on, and announces the presence name if there is one.
///
/// The subscription is in a box, because a copy on the stack would take a page of memory.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
fn subscribe(
    exchange: &Exchange<'_>,
    channels: &Channels,
    start: &Start,
    reader: &ReadAccess,
    presence: Option<String>,
) -> Result<Box<Subscription>, HttpError> {
    let hub: &Registry = &exchange.server.hub;
    let mut subscription = match reader.readable() {
        Readable::Public => hub.subscribe_boxed(channels, start),
        readable => subscribe_with_rights(hub, channels, readable, start),
    }?;
    if let Some(name) = presence {
        subscription.announce(&name);
    }
    Ok(subscription)
}

/// Returns the request's presence name, if it has one and may use it.
///
/// A presence name is announced to all subscribers of the channels, and any page can send a GET. So
/// the request needs the right to publish, or a JWT that may read the channels and has this name as
/// `sub`.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
fn presence(
    exchange: &Exchange<'_>,
    channels: &Channels,
    reader: &ReadAccess,
) -> Result<Option<String>, HttpError> {
    let Some(name) = exchange.request.query("presence") else { return Ok(None) };
    check_presence(&name)?;
    if exchange.server.config.mercure.is_on() && channels.names().any(is_reserved) {
        let detail = "presence is not available on reserved topics; remove ?presence=";
        return Err(HttpError::new(400, detail));
    }
    exchange.locality.check_page()?;
    if !reader.is_subject(&name, channels.names()) {
        let publisher = PublishAccess::of(exchange, Api::Own);
        let may_publish = publisher.and_then(|it| it.check(exchange, channels.names()));
        may_publish.map_err(|cause| {
            let detail = "presence needs the right to publish to these channels, or a JWT that \
                          may read them and has the name as its sub; remove ?presence= to read only";
            let error = HttpError::new(403, detail);
            match cause.token_problem() {
                Some(problem) => error.logged(problem),
                None => error,
            }
        })?;
    }
    Ok(Some(name).filter(|_| !exchange.request.is_head()))
}

#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
fn subscribe_with_rights(
    hub: &Registry,
    channels: &Channels,
    readable: Readable,
    start: &Start,
) -> Result<Box<Subscription>, PublishError> {
    hub.subscribe_boxed(&channels.clone().readable(readable), start)
}

/// Answers with a stream that sends the server's status once a second.
pub(super) fn status(exchange: &Exchange<'_>) -> Result<Reply, HttpError> {
    clock(exchange, &[ticker::STATUS])
}

/// Answers with a stream that sends the server's status once a second, and the events that the
/// program publishes to watchers.
pub(super) fn watch(exchange: &Exchange<'_>) -> Result<Reply, HttpError> {
    clock(exchange, &[ticker::STATUS, ticker::WATCH])
}

/// Answers with a stream of channels of the registry `clock`.
fn clock(exchange: &Exchange<'_>, channels: &[&'static str]) -> Result<Reply, HttpError> {
    let reader = ReadAccess::of(exchange, Api::Own)?;
    let permit = admit(exchange)?;
    let preamble = preamble(exchange, &[Frame::retry(RETRY)], Headers::new());
    if exchange.request.is_head() {
        return Ok(Reply::Head(preamble));
    }
    let source = live(exchange, preamble, subscribe_to_clock(exchange, channels)?, &reader);
    Ok(reply(exchange, source, permit, None))
}

/// Subscribes to channels of the registry `clock`. The stream gets only events that are published
/// from now on.
fn subscribe_to_clock(
    exchange: &Exchange<'_>,
    channels: &[&'static str],
) -> Result<Box<Subscription>, HttpError> {
    let channels = Channels::new(channels.iter().copied())?;
    Ok(exchange.server.clock.subscribe_boxed(&channels, &Start::Now)?)
}

/// Returns a permit for one more stream, which the stream needs before it subscribes. Returns
/// `None` for `HEAD`, which starts no stream.
///
/// Fails if the server or the client's address has reached its maximum number of streams, or if the
/// connection was shed.
pub(super) fn admit(exchange: &Exchange<'_>) -> Result<Option<StreamPermit>, HttpError> {
    let Exchange { server, request, peer, .. } = exchange;
    if request.is_head() {
        return Ok(None);
    }
    let client = forwarded::client(request, peer.ip(), &server.config.trusted_proxies);
    if exchange.is_shed() {
        return Err(server.reject(CONNECTIONS, client, request));
    }
    server.admit(client, request).map(Some)
}

/// Returns where the stream begins: after the last event id, at `?since=`, or now.
pub(super) fn start(request: &Request) -> Result<Start, HttpError> {
    if let Some(id) = last_event_id(request)? {
        return Ok(Start::After(id));
    }
    let Some(since) = request.query("since").filter(|since| !since.is_empty()) else {
        return Ok(Start::Now);
    };
    since.parse().map_err(|_| {
        let detail = "since must be all, a duration such as 30s or 10m, or an id of this server; \
                      send an id that a publisher chose as last_event_id";
        HttpError::new(400, detail)
    })
}

/// The query parameters that clients use for the last event id: those of this server and of
/// Mercure, those of event-source-polyfill and reconnecting-eventsource, and two of Mercure 0.x.
const LAST_EVENT_ID: [&str; 5] =
    ["last_event_id", "lastEventId", "lastEventID", "last-event-id", "Last-Event-ID"];

/// Returns the last event id of a request; `None` if it is absent or empty.
///
/// If the request has the id both in the `Last-Event-ID` header and in the query, the header wins:
/// a browser reconnects with an unchanged URL but updates the header, so the header is newer. Fails
/// if the header is not UTF-8.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
pub(super) fn last_event_id(request: &Request) -> Result<Option<String>, HttpError> {
    if let Some(id) = request.header("last-event-id").filter(|id| !id.is_empty()) {
        let id = std::str::from_utf8(id)
            .map_err(|_| HttpError::new(400, "Last-Event-ID must be UTF-8"))?;
        return Ok(Some(id.to_owned()));
    }
    let mut given = LAST_EVENT_ID.iter().filter_map(|name| request.query(name));
    Ok(given.find(|id| !id.is_empty()))
}

/// Returns whether a request has a last event id, even an empty one.
pub(super) fn has_last_event_id(request: &Request) -> bool {
    let in_query = || LAST_EVENT_ID.iter().any(|name| request.query(name).is_some());
    request.header("last-event-id").is_some() || in_query()
}

/// `User-Agent` prefixes of clients that may ignore the id of an event without data.
///
/// If the first frame of a stream has the id to resume from, these clients get the id in a `cursor`
/// event with data. They are Firefox, the polyfills that run in any browser, and the libraries for
/// Node.js and Python. `make clients` tests which clients ignore the id.
const CURSOR_AS_EVENT: [&str; 4] = ["Mozilla/", "node", "python-", "Python/"];

/// The prefixes that are used for Mercure streams instead of [`CURSOR_AS_EVENT`]: only clients that
/// ignore events whose type has no listener.
pub(super) const MERCURE_CURSOR_AS_EVENT: [&str; 2] = ["Mozilla/", "node"];

/// Returns the first frame of a subscription's stream. Clients whose `User-Agent` begins with a
/// prefix in `as_event` get the id to resume from as an event.
pub(super) fn first_frame(
    request: &Request,
    subscription: &Subscription,
    as_event: &[&str],
) -> Frame {
    let agent = request.text("user-agent").unwrap_or_default();
    subscription.first_frame(as_event.iter().any(|start| agent.starts_with(start)))
}

/// The longest presence name, in bytes.
const PRESENCE_MAX: usize = 256;

/// Fails with 400 if the presence name is malformed. The name is checked before the request changes
/// anything.
fn check_presence(name: &str) -> Result<(), HttpError> {
    if name.is_empty() || name.len() > PRESENCE_MAX || name.contains(char::is_control) {
        let detail = "presence must be 1 to 256 bytes of UTF-8 without control characters";
        return Err(HttpError::new(400, detail));
    }
    Ok(())
}

/// Returns the preamble: the response head and the first frames.
///
/// The server sends the preamble at once, so that the browser fires `open`.
pub(super) fn preamble(exchange: &Exchange<'_>, frames: &[Frame], mut headers: Headers) -> Vec<u8> {
    let request = &exchange.request;
    headers.extend(cors::headers(exchange));
    let framing = request.framing();
    let mut preamble = stream_head(framing, &headers);
    if !request.is_head() {
        frames.iter().for_each(|frame| preamble.extend_from_slice(frame.bytes(framing)));
    }
    preamble
}

pub(super) fn reply(
    exchange: &Exchange<'_>,
    source: Source,
    permit: Option<StreamPermit>,
    held: Option<Box<dyn Any + Send>>,
) -> Reply {
    let path = exchange.path();
    let config = &exchange.server.config;
    let has_jwts = exchange.server.keyring.current().subscribe.key.is_some();
    let is_log = matches!(&source, Source::Live(writer) if writer.reads_a_log());
    let deep = has_jwts || is_log || config.mercure.is_on() && path.starts_with("/.");
    let (client, query) = (exchange.client(), exchange.query_for_hooks());
    Reply::Last(Box::new(Stream { client, path, source, permit, held, query, deep }))
}

#[cfg(feature = "demo")]
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
fn scripted(
    exchange: &Exchange<'_>,
    preamble: Vec<u8>,
    demo: DemoStream,
    last_event_id: Vec<u8>,
) -> Source {
    let (socket, framing) = (exchange.socket(), exchange.request.framing());
    Source::Scripted(Box::new(ScriptedStream { socket, framing, preamble, demo, last_event_id }))
}

pub(super) fn live(
    exchange: &Exchange<'_>,
    preamble: Vec<u8>,
    subscription: Box<Subscription>,
    reader: &ReadAccess,
) -> Source {
    let (request, config) = (&exchange.request, &exchange.server.config);
    let every = config.limits.heartbeat;
    let frame = match request.query("heartbeat").as_deref() {
        Some("event") => Frame::heartbeat_event(every),
        _ => Frame::heartbeat(),
    };
    let heartbeat = Heartbeat::new(every, frame);
    let writer =
        Writer::new(exchange.socket(), request.framing(), preamble, subscription.into(), heartbeat);
    let writer = writer.when_slow(config.slow_client);
    let writer = writer.for_at_most(config.limits.stream_age).until(reader.until);
    Source::Live(writer.opened_with(reader.credential.clone()))
}

/// A stream that is about to begin.
struct Stream {
    /// The client and the path, for the log.
    client: Client,
    path: String,
    source: Source,
    permit: Option<StreamPermit>,
    /// What else the stream holds and drops at its end: its Mercure subscriptions.
    held: Option<Box<dyn Any + Send>>,
    /// The query of the request, if the server has hooks.
    query: Option<Box<str>>,
    /// Whether the server may have parsed a JWT or a URL pattern for the request, or has formatted the
    /// first event of a durable stream, which takes more stack than other requests take.
    deep: bool,
}

/// The source of a stream's events, with the connection to its client.
pub(super) enum Source {
    /// The events of channels, from a registry.
    Live(Box<Writer<Socket>>),
    /// A demo stream: a fixed sequence of sends and waits.
    #[cfg(feature = "demo")]
    Scripted(Box<ScriptedStream>),
}

#[cfg(feature = "demo")]
pub(super) struct ScriptedStream {
    socket: Socket,
    framing: Framing,
    preamble: Vec<u8>,
    demo: DemoStream,
    last_event_id: Vec<u8>,
}

impl LastReply for Stream {
    /// The kernel keeps 32 KB for each thread that has sent data, until the thread ends, and the
    /// stack of a thread never shrinks. So a fresh thread runs the stream if this thread has sent
    /// data and the broadcaster will write the stream, or if the stack of this thread has grown.
    fn needs_fresh_thread(&self, has_sent: bool, server: &ServerState) -> bool {
        has_sent && server.mailboxes.is_some() || self.deep
    }

    fn run(self: Box<Self>, socket: &Arc<Connection>, received: Vec<u8>, server: &ServerState) {
        drop(received); // frees the buffer; the server reads nothing after the request of a stream
        let Self { client, path, source, permit, held, query, deep: _ } = *self;
        let started = Instant::now();
        log::trace!("{client} {path:?} begins");
        let followers = hooks::open(&server.attached.hooks, socket, &path, query.as_deref());
        drop(query);
        let Ok(followers) = followers else { return };
        // The watch is held until the writer and the permit are released, because it measures how
        // long a disconnect takes to free the stream's resources.
        let watch = source.socket().watch();
        let (end, counts) = match source {
            Source::Live(writer) => follow(writer, server),
            #[cfg(feature = "demo")]
            Source::Scripted(scripted) => scripted.run(&server.hub),
        };
        log_end(server, client, &path, started.elapsed(), &end, counts);
        server.counters.end(end.reason());
        followers.iter().for_each(|follower| follower.ended(end.reason()));
        drop((permit, watch, held));
    }
}

impl Source {
    fn socket(&self) -> &Socket {
        match self {
            Self::Live(writer) => writer.socket(),
            #[cfg(feature = "demo")]
            Self::Scripted(scripted) => &scripted.socket,
        }
    }
}

#[cfg(feature = "demo")]
impl ScriptedStream {
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    fn run(self, hub: &Registry) -> (End, StreamCounts) {
        let Self { socket, framing, preamble, demo, last_event_id } = self;
        let disconnects = socket.notifications();
        Outlet::run(socket, framing, hub, &disconnects, &preamble, |out| {
            demo.run(out, &last_event_id)
        })
    }
}

/// Runs a live stream until it ends, in the current delivery mode. If the mode is switched, the
/// stream continues in the new mode.
fn follow(mut writer: Box<Writer<Socket>>, server: &ServerState) -> (End, StreamCounts) {
    loop {
        let delivery = server.delivery();
        let is_current = || server.delivery() == delivery;
        let outcome = match &server.mailboxes {
            Some(mailboxes) if delivery == Delivery::Direct => {
                let id = writer.socket().stream_id();
                stream::direct(writer, |handover| mailboxes.join(id, handover), is_current)
            }
            _ => {
                let socket = writer.socket().clone();
                stream::wake(writer, |notifier| socket.notify_on_disconnect(notifier), is_current)
            }
        };
        match outcome {
            Outcome::Ended(end, counts) => return (end, counts),
            Outcome::Switched(returned) => writer = returned,
        }
    }
}

#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
fn log_end(
    server: &ServerState,
    client: Client,
    path: &str,
    took: Duration,
    end: &End,
    counts: StreamCounts,
) {
    let level = if server.config.log_streams { Level::Info } else { Level::Debug };
    log::log!(
        level,
        client:% = client, path:% = path, seconds = took.as_secs_f64(), events = counts.events,
        bytes = counts.bytes, end:% = end;
        "{client} {path:?} ended after {took:.3?}: {} events, {} bytes, {end}",
        counts.events,
        counts.bytes,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(target: &str, headers: &str) -> Option<String> {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
        let (request, _) = Request::parse(head.as_bytes()).unwrap().unwrap();
        last_event_id(&request).unwrap()
    }

    #[test]
    fn cursor_has_many_names_and_the_header_wins() {
        for name in LAST_EVENT_ID {
            assert_eq!(found(&format!("/?{name}=7-1"), "").as_deref(), Some("7-1"), "{name}");
        }
        assert_eq!(found("/?lastEventId=7-1", "Last-Event-ID: 7-2\r\n").as_deref(), Some("7-2"));
        assert_eq!(found("/?last_event_id=&lastEventId=7-1", "").as_deref(), Some("7-1"));
        assert_eq!(found("/?last_event_id=", "Last-Event-ID: \r\n"), None);
    }
}
