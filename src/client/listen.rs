//! Listens to channels as `EventSource` does in a page.
//!
//! ```text
//!  connect ──200──▶ read, print ──end, error, silence──▶ wait ──▶ connect …
//!     │                                                   ▲
//!     ├─ unreachable, 408, 429, 502 to 504, 507 ──────────┘
//!     ├─ 204 ──▶ done
//!     └─ any other status ──▶ error
//! ```
//!
//! # Invariants
//!
//! * **Each event is written and flushed before the next one is decoded**, so that a program that
//!   reads the output line by line is never behind.
//! * **[`StopHandle`] ends every wait**: it wakes the listener from a pause between connections,
//!   and shuts down the socket on which a read waits.

use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use serde_json::{Value, json};
use ureq::http::header::{ACCEPT, CACHE_CONTROL};
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::error::ClientError;
use super::http::{self, Http, Response, SendError, ServerUrl};
use super::retry::{RETRY, Reconnection, StopHandle};
use crate::decoder::{DecodedEvent, Decoder};
use crate::json;
use crate::token::Token;

/// The options of a [`Listener`].
///
/// ```
/// use std::time::Duration;
/// use threadcast::client::{Decoder, ListenOptions};
///
/// let options = ListenOptions {
///     server: "https://push.example.org".parse()?,
///     token: None,
///     channels: vec!["news".into(), "chat*".into()],
///     since: Some("10m".into()),
///     json: true,
///     count: None,
///     silence: Duration::from_secs(60),
///     event_limit: Decoder::LIMIT,
/// };
/// # Ok::<(), threadcast::client::ClientError>(())
/// ```
#[derive(Debug, Clone)]
pub struct ListenOptions {
    /// The server's base URL.
    pub server: ServerUrl,
    /// The bearer token, if the server requires one.
    pub token: Option<Token>,
    /// Channel names, and prefixes with a trailing `*`.
    pub channels: Vec<String>,
    /// The start of the first stream: an id, a duration, or `all`. `None` means new events only.
    pub since: Option<String>,
    /// Print each event as a JSON object, instead of its data alone.
    pub json: bool,
    /// Stop after this many events.
    pub count: Option<u64>,
    /// Reconnect if no bytes arrive for this long.
    pub silence: Duration,
    /// The maximum length of an event's data, in bytes. An event with more data is skipped with a
    /// warning.
    pub event_limit: usize,
}

/// Prints the events of channels, and reconnects after every interruption.
///
/// ```
/// use std::io;
/// use std::time::Duration;
/// use threadcast::client::{Decoder, ListenOptions, Listener};
/// # use threadcast::{Config, Event, Server};
///
/// # let server = Server::bind(Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() })?;
/// # let (addr, handle, registry) = (server.addresses()[0], server.handle(), server.registry().clone());
/// # let running = std::thread::spawn(move || server.run());
/// # registry.publish("news", &Event::new("hello"))?;
/// let listener = Listener::new(ListenOptions {
///     server: format!("http://{addr}").parse()?,
///     token: None,
///     channels: vec!["news".into(), "chat*".into()],
///     since: Some("10m".into()),
///     json: false,
///     count: Some(1),
///     silence: Duration::from_secs(60),
///     event_limit: Decoder::LIMIT,
/// });
/// let mut out = Vec::new();
/// listener.run(&mut out, &mut io::stderr())?;
/// assert_eq!(out, b"hello\n");
/// # handle.shutdown();
/// # running.join().expect("the server did not panic")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Listener {
    http: Http,
    options: ListenOptions,
    decoder: Decoder,
    /// After this many further events, the listener stops.
    left: u64,
    reconnection: Reconnection,
}

/// The outcome of a request for a stream.
enum Connected {
    Stream(Response),
    /// Status 204: the client must not reconnect.
    NoContent,
}

/// How a stream ended.
enum End {
    /// The listener must stop: it has printed enough events, or the output is closed.
    Finished,
    /// The stream ended or broke: the listener must reconnect.
    Interrupted,
}

impl Listener {
    /// Creates a listener. The listener connects when [`run`](Self::run) is called.
    pub fn new(options: ListenOptions) -> Self {
        let silence = Some(options.silence);
        let http = Http::new(options.server.clone(), options.token.as_ref(), |config| {
            config.timeout_recv_response(silence).timeout_per_read(silence)
        });
        let reconnection = Reconnection::new(http.agent.clone());
        let left = options.count.unwrap_or(u64::MAX);
        let decoder = Decoder::with_limit(options.event_limit);
        Self { http, options, decoder, left, reconnection }
    }

    /// Returns a handle that stops this listener.
    pub fn stop_handle(&self) -> StopHandle {
        self.reconnection.stop_handle()
    }

    /// Listens until the event count is reached, the server returns 204, `out` is closed, or
    /// [`StopHandle`] stops the listener.
    ///
    /// Writes events to `out`, and reports missed events on `warnings`. With JSON, a report of
    /// missed events is a line of `out`.
    ///
    /// # Errors
    ///
    /// Fails if a retry cannot succeed, or if `out` or `warnings` cannot be written.
    pub fn run(mut self, out: &mut dyn Write, warnings: &mut dyn Write) -> Result<(), ClientError> {
        while !self.reconnection.is_stopped() && self.left > 0 {
            let wait = match self.connect() {
                Ok(Connected::NoContent) => return Ok(()),
                Ok(Connected::Stream(response)) => {
                    self.reconnection.succeeded();
                    match self.read(response, out, warnings)? {
                        End::Finished => return Ok(()),
                        End::Interrupted => self.decoder.retry().unwrap_or(RETRY),
                    }
                }
                Err(_) if self.reconnection.is_stopped() => return Ok(()),
                Err(SendError::Permanent(error)) => return Err(error),
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

    /// Requests the stream.
    fn connect(&self) -> Result<Connected, SendError> {
        let (url, headers) = self.request();
        let response = self.http.send(&Method::GET, &url, &headers, &[], None)?;
        match response.status() {
            StatusCode::OK => http::event_stream(response).map(Connected::Stream),
            StatusCode::NO_CONTENT => Ok(Connected::NoContent),
            _ => Err(SendError::of(response)),
        }
    }

    fn request(&self) -> (String, HeaderMap) {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        let mut query = form_urlencoded::Serializer::new(String::new());
        let mut url = match &self.options.channels[..] {
            [channel] => self.options.server.channel(channel),
            channels => {
                query.extend_pairs(channels.iter().map(|channel| ("channel", channel)));
                format!("{}/channels", self.options.server)
            }
        };
        if let Some(since) = &self.options.since {
            query.append_pair("since", since);
        }
        let last_event_id = self.decoder.last_event_id();
        if !last_event_id.is_empty() {
            // A header value may be any UTF-8 text without control characters and without leading
            // or trailing white space. Any other id is sent in the query.
            let trimmed = last_event_id.trim_matches([' ', '\t']) == last_event_id;
            match HeaderValue::from_bytes(last_event_id.as_bytes()) {
                Ok(value) if trimmed => {
                    headers.insert(HeaderName::from_static("last-event-id"), value);
                }
                _ => {
                    query.append_pair("last_event_id", last_event_id);
                }
            }
        }
        let query = query.finish();
        if !query.is_empty() {
            url = format!("{url}?{query}");
        }
        (url, headers)
    }

    /// Reads and prints one stream until it ends.
    fn read(
        &mut self,
        response: Response,
        out: &mut dyn Write,
        warnings: &mut dyn Write,
    ) -> Result<End, ClientError> {
        let mut body = response.into_body().into_reader();
        let mut bytes = vec![0; 16 * 1024];
        self.decoder.restart();
        loop {
            let length = match body.read(&mut bytes) {
                Ok(0) => {
                    log::debug!("the stream ended");
                    return Ok(End::Interrupted);
                }
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    log::debug!("the stream broke: {error}");
                    return Ok(End::Interrupted);
                }
            };
            for event in self.decoder.push(&bytes[..length]) {
                let event = match event {
                    Ok(event) => event,
                    Err(too_long) => {
                        let warned = writeln!(warnings, "threadcast: warning: {too_long}");
                        warned.map_err(ClientError::Output)?;
                        continue;
                    }
                };
                self.options.since = None; // from now on, the last event ID replaces `since`
                match print(&event, self.options.json, out, warnings) {
                    Ok(printed) => self.left -= u64::from(printed),
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                        return Ok(End::Finished);
                    }
                    Err(error) => return Err(ClientError::Output(error)),
                }
                if self.left == 0 {
                    return Ok(End::Finished);
                }
            }
            if !self.decoder.last_event_id().is_empty() {
                self.options.since = None;
            }
        }
    }
}

/// Prints an event as a line, or a gap as a warning.
///
/// Returns whether the event counts towards `ListenOptions::count`: a gap that is printed as a
/// warning does not count, nor does an event that only marks the end of a channel.
fn print(
    event: &DecodedEvent,
    json: bool,
    out: &mut dyn Write,
    warnings: &mut dyn Write,
) -> io::Result<bool> {
    let line = if json {
        json!({ "id": event.id, "event": event.event, "data": event.data }).to_string()
    } else if event.event == "end" && event.data.is_empty() {
        return Ok(false); // marks the end of a channel
    } else if let Some(gap) = gap(event) {
        let _ = writeln!(warnings, "threadcast: warning: {gap}"); // an error here cannot be reported
        return Ok(false);
    } else {
        event.data.clone()
    };
    // The line and its line break are one write, so that a reader never sees half a line.
    out.write_all(format!("{line}\n").as_bytes())?;
    out.flush()?;
    Ok(true)
}

/// Describes a gap in words; `None` if the event is not a valid `gap`.
fn gap(event: &DecodedEvent) -> Option<String> {
    if event.event != "gap" {
        return None;
    }
    let gap = json::parse(event.data.as_bytes()).ok()?;
    let channel = gap["channel"].as_str()?;
    let events = match gap.get("missed")? {
        Value::Null => "an unknown number of events is".into(),
        Value::Number(missed) if missed.as_u64() == Some(1) => "1 event is".into(),
        Value::Number(missed) => format!("{missed} events are"),
        _ => return None,
    };
    let place = match (gap["from"].as_str(), gap["to"].as_str()) {
        (Some(from), Some(to)) => format!(", from {from:?} to {to:?}"),
        (Some(from), None) => format!(", from {from:?} on"),
        (None, Some(to)) => format!(", up to {to:?}"),
        (None, None) => String::new(),
    };
    Some(format!("{events} missing on {channel:?}{place}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gap_is_described_in_words_and_invalid_gap_is_data() {
        let described = |data: &str| {
            gap(&DecodedEvent { id: String::new(), event: "gap".into(), data: data.into() })
        };
        for (data, words) in [
            (
                r#"{"channel":"a","missed":3,"from":"7-1","to":"7-3"}"#,
                Some(r#"3 events are missing on "a", from "7-1" to "7-3""#),
            ),
            (
                r#"{"channel":"a","missed":1,"from":null,"to":"7-3"}"#,
                Some(r#"1 event is missing on "a", up to "7-3""#),
            ),
            (
                r#"{"channel":"a","missed":null}"#,
                Some(r#"an unknown number of events is missing on "a""#),
            ),
            ("mind the gap", None),
            (r#"{"channel":"a"}"#, None),
        ] {
            assert_eq!(described(data).as_deref(), words, "{data}");
        }
    }
}
