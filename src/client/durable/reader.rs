//! Reads a durable stream: first what it has, then what is appended.
//!
//! # Invariants
//!
//! * **No byte is written twice, and none is left out.** The reader writes a response's bytes only
//!   when it has all of them and the offset after them. After an interruption, it continues from the
//!   last such offset.
//! * **[`StopHandle`] ends every wait**, as that of a listener does.

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ureq::http::header::{ACCEPT, CACHE_CONTROL};
use ureq::http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::url::{StreamUrl, is_true, text};
use crate::client::error::ClientError;
use crate::client::http::{self, Http, Response, SendError};
use crate::client::retry::{RETRY, Reconnection, StopHandle};
use crate::decoder::Decoder;
use crate::json;
use crate::token::Token;

/// The options of a [`StreamReader`].
#[derive(Debug, Clone)]
pub(crate) struct ReadOptions {
    /// The stream's URL.
    pub(crate) url: StreamUrl,
    /// The bearer token, if the server requires one.
    pub(crate) token: Option<Token>,
    /// Where to start: `-1` is the beginning, `now` the end; or an offset that the server returned.
    pub(crate) offset: String,
    /// Reconnect if no bytes arrive for this long.
    pub(crate) silence: Duration,
    /// The maximum length of a response that is not live, and of an event, in bytes.
    pub(crate) limit: usize,
}

/// Writes the bytes of a durable stream, and reconnects after every interruption.
#[derive(Debug)]
pub(crate) struct StreamReader {
    http: Http,
    options: ReadOptions,
    decoder: Decoder,
    reconnection: Reconnection,
    /// All bytes before this offset have been written.
    offset: String,
}

/// What a response says about the stream.
struct Position {
    /// The offset after the response's bytes.
    next: String,
    /// Whether the stream had no more bytes.
    is_tail: bool,
    /// Whether the stream has no more bytes, and never will.
    is_end: bool,
}

/// How the bytes of a stream are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Each message of an array is a line.
    Json,
    /// The bytes are written as they are.
    Bytes,
}

/// How a connection ended.
enum End {
    /// The stream is closed, and all its bytes are written.
    Closed,
    /// The connection ended or broke: the reader must reconnect.
    Interrupted,
}

impl StreamReader {
    /// Creates a reader. The reader connects when [`run`](Self::run) is called.
    pub(crate) fn new(options: ReadOptions) -> Self {
        let silence = Some(options.silence);
        let http = Http::new(options.url.server.clone(), options.token.as_ref(), |config| {
            config.timeout_recv_response(silence).timeout_per_read(silence)
        });
        let reconnection = Reconnection::new(http.agent.clone());
        let decoder = Decoder::with_limit(options.limit);
        let offset = options.offset.clone();
        Self { http, options, decoder, reconnection, offset }
    }

    /// Returns a handle that stops this reader.
    pub(crate) fn stop_handle(&self) -> StopHandle {
        self.reconnection.stop_handle()
    }

    /// Reads until the stream is closed, `out` is closed, or [`StopHandle`] stops the reader.
    ///
    /// Writes each message of a JSON stream as a line, and the bytes of any other stream as they are.
    ///
    /// # Errors
    ///
    /// Fails if a retry cannot succeed, or if `out` cannot be written.
    pub(crate) fn run(mut self, out: &mut dyn Write) -> Result<(), ClientError> {
        while !self.reconnection.is_stopped() {
            let wait = match self.read(out) {
                Ok(End::Closed) => return Ok(()),
                Ok(End::Interrupted) => self.decoder.retry().unwrap_or(RETRY),
                Err(SendError::Permanent(ClientError::Output(error)))
                    if error.kind() == ErrorKind::BrokenPipe =>
                {
                    return Ok(());
                }
                Err(_) if self.reconnection.is_stopped() => return Ok(()),
                Err(SendError::Permanent(error)) => return Err(self.options.url.explain(error)),
                Err(SendError::Temporary { cause, wait }) => {
                    self.reconnection.wait_after(&cause, wait, self.decoder.retry())
                }
            };
            if self.reconnection.pause(wait) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads what the stream has, then follows it for one connection.
    fn read(&mut self, out: &mut dyn Write) -> Result<End, SendError> {
        loop {
            let mut response = self.get("")?;
            let content = content(response.headers());
            let position = Position::of_headers(response.headers())?;
            let bytes = self.body(&mut response)?;
            let has_advanced = self.advance(content, &bytes, &position, out)?;
            if position.is_end {
                return Ok(End::Closed);
            }
            // A server that does not say that this is the tail must at least have had more.
            if position.is_tail || !has_advanced {
                return self.follow(content, out);
            }
        }
    }

    /// Writes what is appended, until the connection ends.
    fn follow(&mut self, content: Content, out: &mut dyn Write) -> Result<End, SendError> {
        let response = http::event_stream(self.get("&live=sse")?)?;
        self.reconnection.succeeded();
        let is_base64 = text(response.headers(), "stream-sse-data-encoding") == Some("base64");
        let mut body = response.into_body().into_reader();
        let mut bytes = vec![0; 16 * 1024];
        let mut held = Vec::new(); // data whose control event has not arrived
        self.decoder.restart();
        loop {
            let length = match body.read(&mut bytes) {
                Ok(0) => return Ok(End::Interrupted),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    log::debug!("the stream broke: {error}");
                    return Ok(End::Interrupted);
                }
            };
            let mut arrived = &bytes[..length];
            while !arrived.is_empty() {
                let event = self.decoder.next_event(&mut arrived).map_err(|_| self.too_long())?;
                let Some(event) = event else { break };
                match &*event.event {
                    "data" if is_base64 => held.extend(decoded(&event.data)?),
                    "data" => held.extend_from_slice(event.data.as_bytes()),
                    "control" => {
                        let position = Position::of_control(&event.data)?;
                        self.advance(content, &held, &position, out)?;
                        held.clear();
                        if position.is_end {
                            return Ok(End::Closed);
                        }
                    }
                    _ => {}
                }
                if held.len() > self.options.limit {
                    return Err(self.too_long());
                }
            }
        }
    }

    /// Requests the bytes after the offset.
    fn get(&self, mode: &str) -> Result<Response, SendError> {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if !mode.is_empty() {
            headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        }
        let offset: String = form_urlencoded::byte_serialize(self.offset.as_bytes()).collect();
        let url = format!("{}?offset={offset}{mode}", self.options.url);
        let response = self.http.send(&Method::GET, &url, &headers, &[], None)?;
        if response.status() == StatusCode::OK {
            Ok(response)
        } else {
            Err(SendError::of(response))
        }
    }

    /// Reads the whole body of a response that is not live.
    fn body(&self, response: &mut Response) -> Result<Vec<u8>, SendError> {
        let limit = u64::try_from(self.options.limit).unwrap_or(u64::MAX);
        let read = response.body_mut().with_config().limit(limit).read_to_vec();
        read.map_err(|error| match error {
            ureq::Error::BodyExceedsLimit(_) => self.too_long(),
            error => {
                let cause = format!("{}: the response was incomplete: {error}", self.options.url);
                SendError::Temporary { cause, wait: None }
            }
        })
    }

    /// Writes bytes, and continues from the offset after them. Returns whether that is another one.
    fn advance(
        &mut self,
        content: Content,
        bytes: &[u8],
        position: &Position,
        out: &mut dyn Write,
    ) -> Result<bool, SendError> {
        let write = |out: &mut dyn Write, bytes: &[u8]| {
            let written = out.write_all(bytes).and_then(|()| out.flush());
            written.map_err(|error| SendError::Permanent(ClientError::Output(error)))
        };
        match content {
            _ if bytes.is_empty() => {}
            Content::Bytes => write(out, bytes)?,
            Content::Json => write(out, lines(bytes)?.as_bytes())?,
        }
        let has_advanced = self.offset != position.next;
        self.offset.clone_from(&position.next);
        Ok(has_advanced)
    }

    fn too_long(&self) -> SendError {
        let ReadOptions { url, limit, .. } = &self.options;
        let problem = format!(
            "{url}: the server sends more than {limit} bytes at once; pass a larger --event-limit"
        );
        SendError::Permanent(ClientError::Stream(problem))
    }
}

impl Position {
    fn of_headers(headers: &HeaderMap) -> Result<Self, SendError> {
        let next = text(headers, "stream-next-offset");
        let next = next.ok_or_else(|| unexpected("the response has no Stream-Next-Offset"))?;
        Ok(Self {
            next: next.into(),
            is_tail: is_true(headers, "stream-up-to-date"),
            is_end: is_true(headers, "stream-closed"),
        })
    }

    /// Reads the data of a control event.
    fn of_control(data: &str) -> Result<Self, SendError> {
        let control = json::parse(data.as_bytes()).unwrap_or_default();
        let next = control["streamNextOffset"].as_str();
        let next = next.ok_or_else(|| unexpected("a control event has no streamNextOffset"))?;
        Ok(Self {
            next: next.into(),
            is_tail: control["upToDate"] == true,
            is_end: control["streamClosed"] == true,
        })
    }
}

fn content(headers: &HeaderMap) -> Content {
    if http::media_type(headers) == "application/json" { Content::Json } else { Content::Bytes }
}

/// Returns each message of a JSON array as a line.
fn lines(array: &[u8]) -> Result<String, SendError> {
    let messages = json::elements(array).map_err(|error| unexpected(&error.of("the response")))?;
    Ok(messages.into_iter().map(|message| json::compact(message) + "\n").collect())
}

fn decoded(data: &str) -> Result<Vec<u8>, SendError> {
    let data = data.replace('\n', ""); // the protocol permits several lines
    STANDARD
        .decode(data)
        .map_err(|error| unexpected(&format!("a data event is not base64: {error}")))
}

fn unexpected(found: &str) -> SendError {
    SendError::Permanent(ClientError::UnexpectedResponse { found: found.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_lines_with_their_own_spelling() {
        let array = b"[1.50e+2, {\"a\":\n\" , \"},[7]]";
        assert_eq!(lines(array).unwrap(), "1.50e+2\n{\"a\":\" , \"}\n[7]\n");
        assert_eq!(lines(b"[]").unwrap(), "");
        assert!(lines(b"[1").is_err());
    }

    #[test]
    fn base64_may_have_several_lines() {
        assert_eq!(decoded("AP+A\nfw==").unwrap(), [0, 255, 128, 127]);
        assert!(decoded("AP+").is_err());
    }
}
