//! The demo WebSocket (RFC 6455), at `/ws` and `/` on the same listeners as HTTP.
//!
//! A WebSocket runs on the thread of its connection, as a stream does.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use sha1_smol::Sha1;
use socket2::Socket;
use tungstenite::error::ProtocolError;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket as Tungstenite};

use super::access::{Api, PublishAccess, ReadAccess};
use super::admission::StreamPermit;
use super::answer::switch_head;
use super::error::HttpError;
use super::exchange::Exchange;
use super::forwarded::Client;
use super::inbound::is_timeout;
use super::reply::{LastReply, Reply};
use super::request::{BodyLength, Request};
use super::server_state::ServerState;
use super::{hooks, streams};
use crate::credential::Credential;

/// The minimum time that a read waits, even if its deadline has passed.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// The string that follows the client's key in the hash of the opening handshake (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// How long the server waits for the client's close frame after the server has sent its own.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// Returns whether a request is a WebSocket handshake. The server ignores `Upgrade` in HTTP/1.0
/// (RFC 9110 §7.8).
pub(super) fn is_handshake(request: &Request) -> bool {
    request.minor_version > 0
        && request.has_token("upgrade", "websocket")
        && request.has_token("connection", "upgrade")
}

/// A WebSocket that is about to begin.
struct WebSocket {
    /// The value of the `Sec-WebSocket-Accept` header.
    accept: String,
    /// The path of the request, for the hooks.
    path: String,
    /// The query of the request, if the server has hooks.
    query: Option<Box<str>>,
    client: Client,
    /// What the client may read: until when, and with which token or key.
    reader: ReadAccess,
    /// The permit of a stream, because a WebSocket counts as a client.
    permit: Option<StreamPermit>,
}

/// `GET /ws`: checks the opening handshake, and upgrades the connection to a WebSocket.
pub(super) fn open(exchange: &Exchange<'_>) -> Result<Reply, HttpError> {
    let accept = accept_key(&exchange.request)?;
    let (path, query) = (exchange.path(), exchange.query_for_hooks());
    let client = exchange.client();
    let reader = ReadAccess::of(exchange, Api::Own)?;
    PublishAccess::of(exchange, Api::Own)?.check_any(exchange)?;
    let permit = streams::admit(exchange)?;
    Ok(Reply::Last(Box::new(WebSocket { accept, path, query, client, reader, permit })))
}

/// Returns the `Sec-WebSocket-Accept` value for a request's handshake (RFC 6455 §4.2.2).
pub(crate) fn accept_key(request: &Request) -> Result<String, HttpError> {
    if !is_handshake(request) {
        let detail = "this path is a WebSocket; open it with new WebSocket(…)";
        return Err(HttpError::new(426, detail)
            .with("Upgrade", "websocket")
            .with("Sec-WebSocket-Version", "13"));
    }
    if !matches!(request.body, BodyLength::None | BodyLength::Fixed(0)) {
        // A body must be rejected, because its bytes would be parsed as WebSocket frames.
        return Err(HttpError::malformed("a WebSocket handshake must not have a body"));
    }
    for name in ["sec-websocket-version", "sec-websocket-key"] {
        if request.headers(name).count() > 1 {
            return Err(HttpError::new(400, format!("{name} must be given once")));
        }
    }
    if request.header("sec-websocket-version") != Some(b"13") {
        let detail = "only WebSocket version 13 is supported; send Sec-WebSocket-Version: 13";
        return Err(HttpError::new(426, detail)
            .with("Upgrade", "websocket")
            .with("Sec-WebSocket-Version", "13"));
    }
    match request.header("sec-websocket-key") {
        Some(key) if STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16) => {
            let digest = Sha1::from([key, GUID].concat()).digest();
            Ok(STANDARD.encode(digest.bytes()))
        }
        _ => Err(HttpError::new(400, "Sec-WebSocket-Key must be 16 bytes in base64")),
    }
}

impl LastReply for WebSocket {
    fn needs_fresh_thread(&self, _has_sent: bool, _server: &ServerState) -> bool {
        false
    }

    /// Sends a welcome, then an answer to each message.
    fn run(self: Box<Self>, socket: &Arc<Socket>, received: Vec<u8>, server: &ServerState) {
        let started = Instant::now();
        let Self { accept, path, query, client, reader, permit: _permit } = *self;
        let followers = hooks::open(&server.attached.hooks, socket, &path, query.as_deref());
        drop(query);
        let Ok(_followers) = followers else { return };
        let (messages, end) = match talk(socket, received, &accept, &reader, server) {
            Ok(messages) => (messages, "closed".to_owned()),
            Err((messages, error)) => (messages, error.to_string()),
        };
        let elapsed = started.elapsed();
        log::debug!("{client} /ws ended after {elapsed:.3?}: {messages} messages, {end}");
    }
}

fn talk(
    socket: &Socket,
    ahead: Vec<u8>,
    accept: &str,
    reader: &ReadAccess,
    server: &ServerState,
) -> Result<u64, (u64, Error)> {
    let until = reader.until;
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
            // Checked with each message and each ping, so at the latest after a heartbeat's time.
            if reader.credential.as_ref().is_some_and(Credential::is_withdrawn) {
                return close(&mut ws, CloseCode::Policy, "the token is no longer valid");
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
                    if let Some((code, reason)) = close_reason(&error) {
                        send_close(&mut ws, code, reason)?;
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

/// Returns the close code for a protocol error (RFC 6455 §7.4.1); `None` for other errors, such as
/// a disconnect.
fn close_reason(error: &Error) -> Option<(CloseCode, &'static str)> {
    match error {
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(_) => Some((CloseCode::Protocol, "the frame violates RFC 6455")),
        Error::Utf8(_) => Some((CloseCode::Invalid, "text must be UTF-8")),
        Error::Capacity(_) => Some((CloseCode::Size, "the message is too long; send less")),
        _ => None,
    }
}

/// Sends a close frame without waiting for the client's close frame.
///
/// After a protocol error the server must not parse further frames (RFC 6455 §7.1.7). Instead, the
/// connection's thread discards them, as it discards all input after a last response.
fn send_close(
    ws: &mut Tungstenite<Wire<'_>>,
    code: CloseCode,
    reason: &'static str,
) -> Result<(), Error> {
    ws.close(Some(CloseFrame { code, reason: reason.into() }))?;
    ws.flush()
}

/// Sends a close frame, and waits up to [`CLOSE_WAIT`] for the client's close frame.
fn close(
    ws: &mut Tungstenite<Wire<'_>>,
    code: CloseCode,
    reason: &'static str,
) -> Result<(), Error> {
    send_close(ws, code, reason)?;
    let wire = ws.get_mut();
    (wire.drain, wire.deadline) = (None, Instant::now() + CLOSE_WAIT);
    while ws.read().is_ok() {}
    Ok(())
}

/// A socket whose reads have a deadline and fail when the server drains.
struct Wire<'a> {
    socket: &'a Socket,
    /// An eventfd that is readable while the server drains; `None` after the closing handshake has
    /// begun.
    drain: Option<&'a OwnedFd>,
    deadline: Instant,
}

impl Read for Wire<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now()).max(WAIT_MIN);
            // A time that is too long for a `Timespec` becomes `None`: no deadline.
            let left = Timespec::try_from(left).ok();
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

/// Returns whether a read of a [`Wire`] failed because the server drains.
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
