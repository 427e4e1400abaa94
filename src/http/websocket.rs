//! DemoStream H, the two-way one: a WebSocket (RFC 6455) on the same listener, and
//! on its connection's own thread as well.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tungstenite::error::ProtocolError;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket as Tungstenite};

use super::answer::switch_head;
use super::connection::{Exchange, is_timeout};
use super::error::HttpError;
use super::forwarded::Client;
use super::request::{BodyLength, Request};
use super::{ServerState, lab};

/// The shortest wait for a client.
const SHORTEST: Duration = Duration::from_millis(1);

/// How long the server waits for the client's close frame after its own.
const GOODBYE: Duration = Duration::from_secs(1);

/// Whether the request asks for a WebSocket at all. HTTP/1.0 has no `Upgrade`: there it
/// is ignored (RFC 9110 §7.8).
pub(super) fn is_asked_for(request: &Request) -> bool {
    request.minor_version > 0
        && request.has_token("upgrade", "websocket")
        && request.has_token("connection", "upgrade")
}

/// A WebSocket that is about to be.
pub(super) struct WebSocket {
    /// The value of the handshake's accept header.
    accept: String,
    /// The page that opens it, if there is a lab.
    tab: Option<Box<str>>,
    client: Client,
    /// When its token ends.
    until: Option<Instant>,
}

/// Checks the opening handshake.
pub(super) fn handshake(exchange: &Exchange<'_>) -> Result<WebSocket, HttpError> {
    let accept = accept_key(&exchange.request)?;
    Ok(WebSocket { accept, tab: lab::tab(exchange), client: exchange.client(), until: None })
}

/// The value that accepts a request's handshake (RFC 6455 §4.2.2).
pub(crate) fn accept_key(request: &Request) -> Result<String, HttpError> {
    if !is_asked_for(request) {
        let detail = "this path is a WebSocket; open it with new WebSocket(…)";
        return Err(HttpError::new(426, detail)
            .with("Upgrade", "websocket")
            .with("Sec-WebSocket-Version", "13"));
    }
    if !matches!(request.body, BodyLength::None | BodyLength::Fixed(0)) {
        // Its bytes would be taken for frames.
        return Err(HttpError::malformed("a WebSocket's handshake has no body"));
    }
    for name in ["sec-websocket-version", "sec-websocket-key"] {
        if request.headers(name).count() > 1 {
            return Err(HttpError::new(400, format!("{name} must be given once")));
        }
    }
    if request.header("sec-websocket-version") != Some(b"13") {
        let detail = "WebSocket version 13 is the one spoken here";
        return Err(HttpError::new(426, detail)
            .with("Upgrade", "websocket")
            .with("Sec-WebSocket-Version", "13"));
    }
    match request.header("sec-websocket-key") {
        Some(key) if STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16) => {
            Ok(derive_accept_key(key))
        }
        _ => Err(HttpError::new(400, "Sec-WebSocket-Key must be 16 bytes in base64")),
    }
}

impl WebSocket {
    /// Has it end then at the latest.
    pub(super) fn until(self, until: Option<Instant>) -> Self {
        Self { until, ..self }
    }

    /// The life of the connection from here on: a welcome, then an answer to
    /// each message, until somebody closes.
    #[inline(never)] // nobody else's stack needs its frame
    pub(super) fn run(self, socket: &Arc<TcpStream>, ahead: Vec<u8>, server: &ServerState) {
        let started = Instant::now();
        let Self { accept, tab, client, until } = self;
        let Ok(_guest) = lab::admit(server, socket, tab) else { return };
        let (messages, end) = match talk(socket, ahead, &accept, until, server) {
            Ok(messages) => (messages, "closed".to_owned()),
            Err((messages, error)) => (messages, error.to_string()),
        };
        let elapsed = started.elapsed();
        log::debug!("{client} /ws ended after {elapsed:.3?}: {messages} messages, {end}");
    }
}

fn talk(
    socket: &TcpStream,
    ahead: Vec<u8>,
    accept: &str,
    until: Option<Instant>,
    server: &ServerState,
) -> Result<u64, (u64, Error)> {
    let limits = &server.config.limits;
    let mut messages = 0;
    let talk = || -> Result<(), Error> {
        (&*socket).write_all(&switch_head(accept))?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(limits.body))
            .max_frame_size(Some(limits.body))
            .read_buffer_size(4 * 1024)
            .write_buffer_size(0);
        let wire = Wire { socket, drain: Some(&server.drain_event), deadline: Instant::now() };
        let mut ws = Tungstenite::from_partially_read(wire, ahead, Role::Server, Some(config));
        ws.send(Message::text("Welcome, Client!"))?;
        let mut pinged = false;
        loop {
            let now = Instant::now();
            if until.is_some_and(|until| until <= now) {
                return close(&mut ws, CloseCode::Policy, "the token has expired");
            }
            let next_ping = now + limits.heartbeat;
            ws.get_mut().deadline = until.map_or(next_ping, |until| until.min(next_ping));
            match ws.read() {
                Ok(message @ (Message::Text(_) | Message::Binary(_))) => {
                    messages += 1;
                    let text = String::from_utf8_lossy(&message.into_data()).into_owned();
                    let answer = format!("Hello, Client! Received your message: {text}");
                    ws.send(Message::text(answer))?;
                    pinged = false;
                }
                Ok(_) => pinged = false,
                Err(Error::Io(error)) if is_timeout(&error) && !pinged => {
                    ws.send(Message::Ping(Vec::new().into()))?;
                    pinged = true;
                }
                Err(Error::ConnectionClosed) => return Ok(()),
                Err(Error::Io(error)) if is_draining(&error) => {
                    return close(&mut ws, CloseCode::Away, "the server is closing");
                }
                Err(error) => {
                    if let Some((code, reason)) = fault(&error) {
                        say_close(&mut ws, code, reason)?;
                    }
                    return Err(error);
                }
            }
        }
    };
    match talk() {
        Ok(()) => Ok(messages),
        Err(error) => Err((messages, error)),
    }
}

/// What a client is told that breaks the protocol (RFC 6455 §7.4.1); `None` if it has left.
fn fault(error: &Error) -> Option<(CloseCode, &'static str)> {
    match error {
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(_) => Some((CloseCode::Protocol, "this breaks RFC 6455")),
        Error::Utf8(_) => Some((CloseCode::Invalid, "text must be UTF-8")),
        Error::Capacity(_) => Some((CloseCode::Size, "the message is too long; send less")),
        _ => None,
    }
}

/// Sends a close frame. That is all after a fault, for what follows one is not parsed
/// (RFC 6455 §7.1.7): the connection discards it, as after any last answer.
fn say_close(
    ws: &mut Tungstenite<Wire<'_>>,
    code: CloseCode,
    reason: &'static str,
) -> Result<(), Error> {
    ws.close(Some(CloseFrame { code, reason: reason.into() }))?;
    ws.flush()
}

/// Begins the closing handshake, and waits for the client's half of it for [`GOODBYE`].
fn close(
    ws: &mut Tungstenite<Wire<'_>>,
    code: CloseCode,
    reason: &'static str,
) -> Result<(), Error> {
    say_close(ws, code, reason)?;
    let wire = ws.get_mut();
    (wire.drain, wire.deadline) = (None, Instant::now() + GOODBYE);
    while ws.read().is_ok() {}
    Ok(())
}

/// A socket whose reads have a deadline, and end when the server drains.
struct Wire<'a> {
    socket: &'a TcpStream,
    /// Readable once the server drains; `None` if that is known.
    drain: Option<&'a OwnedFd>,
    deadline: Instant,
}

impl Read for Wire<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now()).max(SHORTEST);
            let left = Timespec::try_from(left).ok(); // longer than a clock: no deadline
            let mut either = vec![PollFd::new(self.socket, PollFlags::IN)];
            either.extend(self.drain.map(|drain| PollFd::new(drain, PollFlags::IN)));
            match poll(&mut either, left.as_ref()) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) if !either[0].revents().is_empty() => return self.socket.read(bytes),
                Ok(_) => return Err(io::ErrorKind::ConnectionAborted.into()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether a read of a [`Wire`] ended because the server drains.
fn is_draining(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionAborted
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}
