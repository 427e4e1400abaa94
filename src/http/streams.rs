//! A stream that is about to begin: from a request to the bytes that open it,
//! and on to the thread's life in [`crate::stream`].

use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;

use super::access::{Api, PublishAccess, ReadAccess};
use super::admission::StreamPermit;
use super::answer::{Headers, stream_head};
use super::connection::Exchange;
use super::cursor::last_event_id;
use super::error::HttpError;
use super::forwarded::Client;
use super::mercure::{Active, is_reserved};
use super::request::Request;
use super::routes::Reply;
use super::{ServerState, cors, forwarded, lab};
use crate::broadcast::Delivery;
use crate::counters::CONNECTIONS;
use crate::demo::DemoStream;
use crate::error::PublishError;
use crate::event::{Frame, Framing};
use crate::limits::RETRY;
use crate::registry::{Channels, Readable, Registry, Start, Subscription};
use crate::stream::{self, End, Heartbeat, Outcome, Outlet, Socket, StreamCounts, Writer};
use crate::ticker;

/// With the charset: some clients read `text/*` without one as Latin-1 (RFC 2616 §3.7.1).
pub(super) const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";

/// Answers with one of the articles' streams.
#[inline(never)] // so that no other answer stands on its frame
pub(super) fn demo(
    exchange: &Exchange<'_>,
    demo: DemoStream,
    reader: &ReadAccess,
) -> Result<Reply, HttpError> {
    let last_event_id = last_event_id(&exchange.request)?.unwrap_or_default().into_bytes();
    if demo.is_over(&last_event_id) {
        // The one status that tells a browser not to come back.
        return Ok(Reply::Answer(super::answer::Answer::new(204)));
    }
    let permit = admit(exchange)?;
    let preamble = preamble(exchange, &demo.preamble(), Headers::new());
    if exchange.request.is_head() {
        return Ok(Reply::Head(preamble));
    }
    let source = match demo.clock() {
        Some(channel) => live(exchange, preamble, of_clock(exchange, channel)?, reader),
        None => scripted(exchange, preamble, demo, last_event_id),
    };
    Ok(reply(exchange, source, permit, None))
}

/// Answers with what is published to some channels of the hub.
pub(super) fn channels(
    exchange: &Exchange<'_>,
    channels: &Channels,
    reader: &ReadAccess,
) -> Result<Reply, HttpError> {
    let presence = presence(exchange, channels, reader)?;
    let permit = admit(exchange)?;
    let start = start(&exchange.request)?;
    if exchange.request.is_head() {
        return Ok(Reply::Head(preamble(exchange, &[], Headers::new()))); // it subscribes to nothing
    }
    let subscription = subscribe(exchange, channels, &start, reader, presence)?;
    let first = [first_frame(&exchange.request, &subscription, &CURSOR_AS_EVENT)];
    let preamble = preamble(exchange, &first, Headers::new());
    Ok(reply(exchange, live(exchange, preamble, subscription, reader), permit, None))
}

/// Joins the channels from `start` on, announced under a name if there is one.
#[inline(never)] // or the stream would be made on its frame; in a box, for copies are stack: a page more
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
        readable => subscribe_by_right(hub, channels, readable, start),
    }?;
    if let Some(name) = presence {
        subscription.announce(&name);
    }
    Ok(subscription)
}

/// The name that the request is to be announced under, if it asks for that.
///
/// An announcement is an event that all subscribers get, and a GET can come from any page: it
/// needs what publishing needs. A JWT that names the person is enough where it may read.
#[inline(never)] // as above
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
    if !reader.is_of(&name, channels.names()) {
        let publisher = PublishAccess::of(exchange, Api::Own);
        let may_publish = publisher.and_then(|it| it.check(exchange, channels.names()));
        may_publish.map_err(|refused| {
            let detail = "presence needs what publishing to these channels needs, or a JWT that \
                          may read them and whose sub is the name; remove ?presence= to read only";
            let error = HttpError::new(403, detail);
            match refused.token_problem {
                Some(problem) => error.logged(problem),
                None => error,
            }
        })?;
    }
    Ok(Some(name).filter(|_| !exchange.request.is_head()))
}

#[inline(never)] // most readers have no token
fn subscribe_by_right(
    hub: &Registry,
    channels: &Channels,
    readable: Readable,
    start: &Start,
) -> Result<Box<Subscription>, PublishError> {
    hub.subscribe_boxed(&channels.clone().readable(readable), start)
}

/// Answers with the server's status, each second.
pub(super) fn status(exchange: &Exchange<'_>, reader: &ReadAccess) -> Result<Reply, HttpError> {
    let permit = admit(exchange)?;
    let preamble = preamble(exchange, &[Frame::retry(RETRY)], Headers::new());
    if exchange.request.is_head() {
        return Ok(Reply::Head(preamble));
    }
    let source = live(exchange, preamble, of_clock(exchange, ticker::STATUS)?, reader);
    Ok(reply(exchange, source, permit, None))
}

/// What the ticker says, from now on.
fn of_clock(
    exchange: &Exchange<'_>,
    channel: &'static str,
) -> Result<Box<Subscription>, HttpError> {
    let channels = Channels::new([channel])?;
    Ok(exchange.server.clock.subscribe_boxed(&channels, &Start::Now)?)
}

/// A place for one more stream, before it has subscribed to anything; `HEAD` needs
/// none.
pub(super) fn admit(exchange: &Exchange<'_>) -> Result<Option<StreamPermit>, HttpError> {
    let Exchange { server, request, peer, .. } = exchange;
    if request.is_head() {
        return Ok(None);
    }
    let client = forwarded::client(request, peer.ip(), &server.config.trusted_proxies);
    if exchange.is_shed() {
        return Err(server.refuse(CONNECTIONS, client, request));
    }
    server.enter(client, request).map(Some)
}

/// Where the stream begins: after the client's last event, or where `?since=` says.
fn start(request: &Request) -> Result<Start, HttpError> {
    if let Some(id) = last_event_id(request)? {
        return Ok(Start::After(id));
    }
    let Some(since) = request.query("since").filter(|since| !since.is_empty()) else {
        return Ok(Start::Now);
    };
    since.parse().map_err(|_| {
        let detail = "since must be all, a duration such as 30s or 10m, or an id of this server; \
                      send a publisher's own id as last_event_id";
        HttpError::new(400, detail)
    })
}

/// How the `User-Agent` of the clients begins that may not store the id of a block without data, as
/// `make clients` measured: Firefox and the polyfills that run in any browser, the libraries of
/// Node.js, and those of Python.
const CURSOR_AS_EVENT: [&str; 4] = ["Mozilla/", "node", "python-", "Python/"];

/// Of these, the clients of Mercure that ignore an event of a type that they do not listen for.
pub(super) const MERCURE_CURSOR_AS_EVENT: [&str; 2] = ["Mozilla/", "node"];

/// The frame that the stream of a subscription begins with: as an event for these clients.
pub(super) fn first_frame(
    request: &Request,
    subscription: &Subscription,
    as_event: &[&str],
) -> Frame {
    let agent = request.text("user-agent").unwrap_or_default();
    subscription.first_frame(as_event.iter().any(|start| agent.starts_with(start)))
}

/// The longest name that somebody may be present under, in bytes.
const PRESENCE_MAX: usize = 256;

/// Fails for what is no name. Called before the request changes anything.
fn check_presence(name: &str) -> Result<(), HttpError> {
    if name.is_empty() || name.len() > PRESENCE_MAX || name.contains(char::is_control) {
        let detail = "presence must be 1 to 256 bytes of UTF-8 without control characters";
        return Err(HttpError::new(400, detail));
    }
    Ok(())
}

/// The head and the preamble: they leave at once, so that `open` fires.
pub(super) fn preamble(exchange: &Exchange<'_>, frames: &[Frame], mut headers: Headers) -> Vec<u8> {
    let request = &exchange.request;
    headers.extend(cors::headers(exchange));
    let mut preamble = stream_head(request, EVENT_STREAM, &headers);
    if !request.is_head() {
        let framing = request.framing();
        frames.iter().for_each(|frame| preamble.extend_from_slice(frame.bytes(framing)));
    }
    preamble
}

pub(super) fn reply(
    exchange: &Exchange<'_>,
    source: Source,
    permit: Option<StreamPermit>,
    active: Option<Box<Active>>,
) -> Reply {
    let path = exchange.path();
    let config = &exchange.server.config;
    let deep = config.subscribe_key.is_some() || config.mercure.is_on() && path.starts_with("/.");
    let (client, tab) = (exchange.client(), lab::tab(exchange));
    Reply::Stream(Box::new(Stream { client, path, source, permit, active, tab, deep }))
}

#[inline(never)] // so that a clock does not stand on its frame
fn scripted(
    exchange: &Exchange<'_>,
    preamble: Vec<u8>,
    demo: DemoStream,
    last_event_id: Vec<u8>,
) -> Source {
    let (socket, framing) = (exchange.socket(), exchange.request.framing());
    Source::Scripted(Box::new(ScriptedStream { socket, framing, preamble, demo, last_event_id }))
}

#[expect(clippy::boxed_local)] // unboxed, it would be copied on its caller's frame too
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
        Writer::new(exchange.socket(), request.framing(), preamble, *subscription, heartbeat);
    let writer = writer.when_slow(config.slow_client);
    Source::Live(writer.for_at_most(config.limits.stream_age).until(reader.until))
}

/// A stream that is about to begin.
pub(super) struct Stream {
    /// Whose it is and where, for the log.
    client: Client,
    path: String,
    source: Source,
    permit: Option<StreamPermit>,
    /// What is told of it to those who follow Mercure's subscriptions.
    active: Option<Box<Active>>,
    /// The page that opens it, if there is a lab.
    tab: Option<Box<str>>,
    /// Whether a JWT or a pattern was looked at on the way to it.
    deep: bool,
}

/// Where a stream's events come from, and the way to its client.
pub(super) enum Source {
    /// A registry: what is published to some channels.
    Live(Box<Writer<Socket>>),
    /// A straight line of sends and waits.
    Scripted(Box<ScriptedStream>),
}

pub(super) struct ScriptedStream {
    socket: Socket,
    framing: Framing,
    preamble: Vec<u8>,
    demo: DemoStream,
    /// Where the client has got to.
    last_event_id: Vec<u8>,
}

impl Stream {
    /// Whether the way to it took more stack than a stream's thread should keep.
    pub(super) fn is_deep(&self) -> bool {
        self.deep
    }

    /// The rest of the connection's life, but for its closing.
    #[inline(never)] // its caller's frame stays small for those who only ask
    pub(super) fn run(self, socket: &Arc<TcpStream>, server: &ServerState) {
        let Self { client, path, source, permit, active, tab, deep: _ } = self;
        let started = Instant::now();
        log::trace!("{client} {path:?} begins");
        let Ok(_guest) = lab::admit(server, socket, tab) else { return };
        // Held to the end: what it measures is when all is free that a hang-up frees.
        let watch = source.socket().place();
        let (end, counts) = match source {
            Source::Live(writer) => follow(writer, server),
            Source::Scripted(scripted) => scripted.run(&server.hub),
        };
        log_end(server, client, &path, started.elapsed(), &end, counts);
        server.counters.end(end.reason());
        drop((permit, watch, active));
    }
}

impl Source {
    fn socket(&self) -> &Socket {
        match self {
            Self::Live(writer) => writer.socket(),
            Self::Scripted(scripted) => &scripted.socket,
        }
    }
}

impl ScriptedStream {
    #[inline(never)] // or its frame would lie under every stream
    fn run(self, hub: &Registry) -> (End, StreamCounts) {
        let Self { socket, framing, preamble, demo, last_event_id } = self;
        let gone = socket.notifications();
        Outlet::run(socket, framing, hub, &gone, &preamble, |out| demo.run(out, &last_event_id))
    }
}

/// The life of a live stream, in the way that is wanted, and in the other one from when the lab
/// wants that.
fn follow(mut writer: Box<Writer<Socket>>, server: &ServerState) -> (End, StreamCounts) {
    loop {
        let delivery = server.delivery();
        let stays = || server.delivery() == delivery;
        let outcome = match &server.mailbox {
            Some(mailbox) if delivery == Delivery::Direct => {
                stream::direct(writer, |handover| mailbox.join(handover), stays)
            }
            _ => {
                let socket = writer.socket().clone();
                stream::wake(writer, |notifier| socket.notify_on_disconnect(notifier), stays)
            }
        };
        match outcome {
            Outcome::Over(end, counts) => return (end, counts),
            Outcome::Switched(again) => writer = again,
        }
    }
}

#[inline(never)] // or its frame would lie under every stream
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
