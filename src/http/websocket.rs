//! Recipe H, the two-way one: a WebSocket (RFC 6455) on the same listener, and
//! on its connection's own thread as well.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket as Tungstenite};

use super::answer::switch_head;
use super::connection::{Exchange, is_timeout};
use super::refusal::Refusal;
use super::request::Request;
use super::{Shared, lab};

/// What a socket can wait for at least.
const SHORTEST: Duration = Duration::from_millis(1);

/// Whether the request asks for a WebSocket at all.
pub(super) fn is_asked_for(request: &Request) -> bool {
    request.has_token("upgrade", "websocket") && request.has_token("connection", "upgrade")
}

/// A WebSocket that is about to be.
pub(super) struct WebSocket {
    /// The value of the handshake's accept header.
    accept: String,
    /// The page that opens it, if there is a lab.
    tab: Option<Box<str>>,
    /// When its token ends.
    until: Option<Instant>,
}

/// Checks the opening handshake.
pub(super) fn handshake(exchange: &Exchange<'_>) -> Result<WebSocket, Refusal> {
    let request = &exchange.request;
    if !is_asked_for(request) {
        let detail = "this path is a WebSocket; open it with new WebSocket(…)";
        return Err(Refusal::new(426, detail)
            .with("Upgrade", "websocket")
            .with("Sec-WebSocket-Version", "13"));
    }
    if request.header("sec-websocket-version") != Some(b"13") {
        let detail = "WebSocket version 13 is the one spoken here";
        return Err(Refusal::new(426, detail)
            .with("Upgrade", "websocket")
            .with("Sec-WebSocket-Version", "13"));
    }
    match request.header("sec-websocket-key") {
        Some(key) if key.len() == 24 && key.ends_with(b"==") => {
            Ok(WebSocket { accept: derive_accept_key(key), tab: lab::tab(exchange), until: None })
        }
        _ => Err(Refusal::new(400, "Sec-WebSocket-Key must be 16 bytes in base64")),
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
    pub(super) fn run(
        self,
        socket: &Arc<TcpStream>,
        ahead: Vec<u8>,
        server: &Shared,
        peer: SocketAddr,
    ) {
        let started = Instant::now();
        let Self { accept, tab, until } = self;
        let Ok(_guest) = lab::admit(server, socket, tab) else { return };
        let (messages, end) = match talk(socket, ahead, &accept, until, server) {
            Ok(messages) => (messages, "closed".to_owned()),
            Err((messages, error)) => (messages, error.to_string()),
        };
        let elapsed = started.elapsed();
        log::debug!("{peer} /ws ended after {elapsed:.3?}: {messages} messages, {end}");
    }
}

fn talk(
    socket: &Arc<TcpStream>,
    ahead: Vec<u8>,
    accept: &str,
    until: Option<Instant>,
    server: &Shared,
) -> Result<u64, (u64, Error)> {
    let limits = &server.config.limits;
    let mut messages = 0;
    let talk = || -> Result<(), Error> {
        (&**socket).write_all(&switch_head(accept))?;
        socket.set_read_timeout(Some(limits.heartbeat.max(SHORTEST)))?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(limits.body))
            .max_frame_size(Some(limits.body))
            .read_buffer_size(4 * 1024)
            .write_buffer_size(0);
        let mut ws = Tungstenite::from_partially_read(&**socket, ahead, Role::Server, Some(config));
        // Told to leave by the reading half being shut while we wait in `read`.
        let Some(_idle) = server.idle.enter(socket, false) else { return goodbye(socket) };
        ws.send(Message::text("Welcome, Client!"))?;
        let mut pinged = false;
        loop {
            if let Some(until) = until {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return close(&mut ws, CloseCode::Policy, "the token has expired");
                }
                socket.set_read_timeout(Some(limits.heartbeat.min(left).max(SHORTEST)))?;
            }
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
                Err(_) if server.is_draining() => return goodbye(socket),
                Err(error @ Error::Capacity(_)) => {
                    close(&mut ws, CloseCode::Size, "the message is too long; send less")?;
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
    };
    match talk() {
        Ok(()) => Ok(messages),
        Err(error) => Err((messages, error)),
    }
}

/// Says that the server goes. On a WebSocket made anew: the one that read the
/// end of its input counts itself as closed.
fn goodbye(socket: &TcpStream) -> Result<(), Error> {
    let mut ws = Tungstenite::from_raw_socket(socket, Role::Server, None);
    close(&mut ws, CloseCode::Away, "the server is closing")
}

fn close<S: io::Read + Write>(
    ws: &mut Tungstenite<S>,
    code: CloseCode,
    reason: &'static str,
) -> Result<(), Error> {
    ws.close(Some(CloseFrame { code, reason: reason.into() }))?;
    ws.flush()
}
