//! Publishes events, with retries that do not duplicate them.
//!
//! # Invariants
//!
//! * **A retry publishes nothing twice.** Every POST has its own `Idempotency-Key`, and its retries
//!   repeat that key.
//! * **The order of the input is kept.** The publisher sends a POST only after the response to the
//!   previous POST.
//! * **A line never waits for another line.** A batch contains only lines that were buffered when
//!   the response to the previous POST arrived.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use serde_json::{Value, json};
use ureq::http::header::CONTENT_TYPE;
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::error::ClientError;
use super::http::{Http, Response, SendError, ServerUrl};
use super::lines::{Line, Lines, StreamEvents};
use super::retry::{milliseconds, repeat};
use crate::json;
use crate::token::Token;

/// The maximum size of a batch, in bytes.
const BATCH_BYTES: usize = 256 * 1024;

/// The maximum number of lines in a batch: a fraction of the default history of a channel, so that
/// one batch does not remove events that a slightly slow subscriber has yet to read.
const BATCH_LINES: usize = 256;

/// The maximum number of bytes read from a response body.
const RESPONSE_MAX: u64 = 64 * 1024;

/// The options of a [`Publisher`].
///
/// ```
/// use std::time::Duration;
/// use threadcast::client::{OnError, PublishOptions};
///
/// let options = PublishOptions {
///     server: "https://push.example.org".parse()?,
///     token: Some("s3cret".parse()?),
///     channel: "news".into(),
///     event: Some("headline".into()),
///     retry: None,
///     json: false,
///     sse: false,
///     end: false,
///     timeout: Duration::from_secs(30),
///     on_error: OnError::Skip,
/// };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct PublishOptions {
    /// The server's base URL.
    pub server: ServerUrl,
    /// The bearer token, if the server requires one.
    pub token: Option<Token>,
    /// The channel's name.
    pub channel: String,
    /// The event type.
    pub event: Option<String>,
    /// The reconnection time (`retry`) that the events set.
    pub retry: Option<Duration>,
    /// Whether the data is a JSON object with `data`, and optionally `event`, `id`, `retry` and
    /// `end`.
    pub json: bool,
    /// Whether the input of [`Publisher::publish_lines`] is an event stream (`text/event-stream`). The
    /// publisher publishes its events, with their types, ids and reconnection times.
    pub sse: bool,
    /// Whether to end the channel: with the event of [`Publisher::publish`], or with an event of the
    /// type `end` at the end of the input of [`Publisher::publish_lines`].
    pub end: bool,
    /// How long temporary failures of a POST are retried.
    pub timeout: Duration,
    /// What happens to a line of the input that cannot be published.
    pub on_error: OnError,
}

/// What happens to a line that is not a valid event, or that the server rejects with 400, 413 or
/// 422.
///
/// ```
/// use threadcast::client::OnError;
///
/// assert_eq!(OnError::default(), OnError::Skip);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// Skip the line with a warning, and publish the other lines.
    #[default]
    Skip,
    /// Stop at the line, with an error.
    Stop,
}

/// Publishes to one channel, over a keep-alive connection.
///
/// ```
/// use std::time::Duration;
/// use threadcast::client::{OnError, PublishOptions, Publisher};
/// # use threadcast::{Config, Server};
///
/// # let server = Server::bind(Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() })?;
/// # let (addr, handle, registry) = (server.addresses()[0], server.handle(), server.registry().clone());
/// # let running = std::thread::spawn(move || server.run());
/// let publisher = Publisher::new(PublishOptions {
///     server: format!("http://{addr}").parse()?,
///     token: None,
///     channel: "news".into(),
///     event: None,
///     retry: None,
///     json: false,
///     sse: false,
///     end: false,
///     timeout: Duration::from_secs(30),
///     on_error: OnError::Skip,
/// });
/// let publication = publisher.publish("hello", None)?;
/// assert_eq!(publication.id, registry.last_id().to_string());
/// # handle.shutdown();
/// # running.join().expect("the server did not panic")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Publisher {
    http: Http,
    options: PublishOptions,
}

/// The response to one POST.
///
/// ```
/// use threadcast::EventId;
/// use threadcast::client::Publication;
///
/// let publication = Publication { id: "7-41".into() };
/// assert_eq!(publication.id.parse(), Ok(EventId { epoch: 7, n: 41 }));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The id of the event; for a batch, of its last event.
    pub id: String,
}

impl Publisher {
    /// Creates a publisher. The publisher connects when it sends its first request.
    pub fn new(options: PublishOptions) -> Self {
        let http = Http::new(options.server.clone(), options.token.as_ref(), |config| config);
        Self { http, options }
    }

    /// Publishes one event, optionally with a client-supplied id.
    ///
    /// # Errors
    ///
    /// Fails if the data is not a valid event, if the server returns an error, or if all attempts
    /// within the timeout fail.
    pub fn publish(&self, data: &str, id: Option<&str>) -> Result<Publication, ClientError> {
        if self.options.json {
            check_object(data).map_err(|reason| ClientError::Data { reason })?;
        }
        self.post(&self.single(data, id, self.options.end))
    }

    /// Publishes each line of `input` as soon as it is read.
    ///
    /// With `ids`, writes the id of each line to `ids`. Each line is then sent in its own request,
    /// because the response to a batch contains only the id of its last line.
    ///
    /// With [`PublishOptions::end`], ends the channel at the end of the input, but not after an error
    /// that stops the publisher.
    ///
    /// # Errors
    ///
    /// Fails with [`ClientError::Skipped`] at the end of the input if lines were skipped. Fails
    /// immediately if an error is not the fault of a single line: for example, if the server cannot
    /// be reached, or if the token has no permission.
    pub fn publish_lines(
        &self,
        input: impl Read,
        mut ids: Option<&mut dyn Write>,
    ) -> Result<(), ClientError> {
        let mut lines = if self.options.sse {
            Input::Events(Box::new(StreamEvents::new(input)))
        } else {
            Input::Lines(Lines::new(input))
        };
        let (mut held, mut published, mut skipped) = (None, 0, 0);
        loop {
            let first = match held.take().unwrap_or_else(|| self.next(&mut lines)) {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(error) => {
                    self.skip(error, &mut skipped)?;
                    continue;
                }
            };
            let mut batch = vec![first];
            let mut bytes = self.encode(&batch[0].text).len();
            while ids.is_none() && batch.len() < BATCH_LINES && lines.is_waiting() {
                match self.next(&mut lines) {
                    Ok(Some(line)) if self.fits(&line, &mut bytes) => batch.push(line),
                    // A line that does not fit, an error, or the end of the input: handle this
                    // after the batch is sent.
                    other => {
                        held = Some(other);
                        break;
                    }
                }
            }
            let sent = self.post(&self.body_of(&batch));
            match sent.map_err(|cause| cause.of_lines(&batch)) {
                Ok(last) => {
                    published += batch.len() as u64;
                    print_id(&mut ids, &last)?;
                }
                // The server rejected the whole batch: send each line alone to find the bad one.
                Err(error) if batch.len() > 1 && self.may_skip(&error) => {
                    for line in batch.chunks(1) {
                        match self.post(&self.body_of(line)).map_err(|cause| cause.of_lines(line)) {
                            Ok(_) => published += 1,
                            Err(error) => self.skip(error, &mut skipped)?,
                        }
                    }
                }
                Err(error) => self.skip(error, &mut skipped)?,
            }
        }
        if self.options.end {
            let last = self.post(&Post::end())?;
            print_id(&mut ids, &last)?;
        }
        if skipped > 0 { Err(ClientError::Skipped { skipped, published }) } else { Ok(()) }
    }

    /// Counts and logs a skipped line. Returns the error if the line may not be skipped.
    fn skip(&self, error: ClientError, skipped: &mut u64) -> Result<(), ClientError> {
        if !self.may_skip(&error) {
            return Err(error);
        }
        *skipped += 1;
        log::warn!("skipped a line: {error}");
        Ok(())
    }

    fn may_skip(&self, error: &ClientError) -> bool {
        self.options.on_error == OnError::Skip && error.is_fault_of_a_line()
    }

    /// Returns the next line that is an event.
    fn next(&self, lines: &mut Input<impl Read>) -> Result<Option<Line>, ClientError> {
        loop {
            let Some(line) = lines.next()? else { return Ok(None) };
            if self.options.json && !self.options.sse {
                if line.text.trim().is_empty() {
                    continue; // NDJSON readers ignore blank lines
                }
                check_object(&line.text)
                    .map_err(|reason| ClientError::Line { number: line.number, reason })?;
            }
            return Ok(Some(line));
        }
    }

    /// Whether a line fits into a batch that already has `bytes` bytes. If the line fits, adds its
    /// length to `bytes`.
    fn fits(&self, line: &Line, bytes: &mut usize) -> bool {
        let length = self.encode(&line.text).len() + 1;
        let fits = *bytes + length <= BATCH_BYTES;
        *bytes += if fits { length } else { 0 };
        fits
    }

    /// Returns the POST of these lines: a single event, or NDJSON.
    fn body_of<'a>(&self, lines: &'a [Line]) -> Post<'a> {
        if let [line] = lines {
            return self.single(&line.text, None, false);
        }
        let mut body = Vec::new();
        for line in lines {
            body.extend_from_slice(self.encode(&line.text).as_bytes());
            body.push(b'\n');
        }
        let content_type = "application/x-ndjson";
        Post { query: String::new(), content_type, body: Cow::Owned(body) }
    }

    /// Encodes a text as one line of NDJSON, without the LF.
    fn encode<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.is_json() {
            return Cow::Borrowed(text);
        }
        let mut event = json!({ "data": text });
        if let Some(name) = &self.options.event {
            event["event"] = json!(name);
        }
        if let Some(retry) = self.options.retry {
            event["retry"] = json!(milliseconds(retry));
        }
        Cow::Owned(event.to_string())
    }

    /// Whether each line is a JSON object.
    fn is_json(&self) -> bool {
        self.options.json || self.options.sse
    }

    fn single<'a>(&self, data: &'a str, id: Option<&str>, end: bool) -> Post<'a> {
        let body = Cow::Borrowed(data.as_bytes());
        let mut query = form_urlencoded::Serializer::new(String::new());
        if end {
            query.append_pair("end", "true");
        }
        if self.is_json() {
            return Post { query: query.finish(), content_type: "application/json", body };
        }
        let retry = self.options.retry.map(|retry| milliseconds(retry).to_string());
        let fields =
            [("event", self.options.event.as_deref()), ("id", id), ("retry", retry.as_deref())];
        for (name, value) in fields {
            value.map(|value| query.append_pair(name, value));
        }
        Post { query: query.finish(), content_type: "text/plain; charset=utf-8", body }
    }

    /// Sends a POST, and retries temporary failures until the timeout.
    fn post(&self, post: &Post<'_>) -> Result<Publication, ClientError> {
        let mut url = self.options.server.channel(&self.options.channel);
        if !post.query.is_empty() {
            write!(url, "?{}", post.query).expect("a write to a String succeeds");
        }
        let key = format!("{:032x}", fastrand::u128(..));
        let key = HeaderValue::try_from(key).expect("hex digits are valid in a header");
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("idempotency-key"), key);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(post.content_type));

        repeat(self.options.timeout, |limit| {
            let sent = self.http.send(&Method::POST, &url, &headers, &post.body, Some(limit));
            sent.and_then(publication)
        })
    }
}

/// The input of [`Publisher::publish_lines`].
enum Input<R> {
    Lines(Lines<R>),
    Events(Box<StreamEvents<R>>),
}

impl<R: Read> Input<R> {
    fn next(&mut self) -> Result<Option<Line>, ClientError> {
        match self {
            Self::Lines(lines) => lines.next(),
            Self::Events(events) => events.next(),
        }
    }

    /// Whether [`Input::next`] does not block.
    fn is_waiting(&self) -> bool {
        match self {
            Self::Lines(lines) => lines.is_waiting(),
            Self::Events(events) => events.is_waiting(),
        }
    }
}

/// The query and body of one POST.
struct Post<'a> {
    query: String,
    content_type: &'static str,
    body: Cow<'a, [u8]>,
}

impl Post<'_> {
    /// The POST that ends the channel at the end of the input.
    fn end() -> Self {
        let (query, body) = ("event=end&end=true".into(), Cow::Borrowed(&b""[..]));
        Self { query, content_type: "text/plain; charset=utf-8", body }
    }
}

/// Prints an id, unless the output is closed.
fn print_id(ids: &mut Option<&mut dyn Write>, last: &Publication) -> Result<(), ClientError> {
    let Some(out) = ids else { return Ok(()) };
    match writeln!(out, "{}", last.id).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => *ids = None,
        written => written.map_err(ClientError::Output)?,
    }
    Ok(())
}

impl ClientError {
    /// Adds the line numbers to the error of a POST.
    fn of_lines(self, lines: &[Line]) -> Self {
        let number = |line: Option<&Line>| line.map_or(0, |line| line.number);
        let (first, last) = (number(lines.first()), number(lines.last()));
        Self::Lines { first, last, cause: Box::new(self) }
    }

    /// Whether one line of the input caused the error, so that other lines may succeed.
    fn is_fault_of_a_line(&self) -> bool {
        match self {
            Self::Line { .. } => true,
            Self::Lines { cause, .. } => {
                matches!(**cause, Self::ErrorResponse { status: 400 | 413 | 422, .. })
            }
            _ => false,
        }
    }
}

/// Reads the id from a response.
fn publication(mut response: Response) -> Result<Publication, SendError> {
    let status = response.status();
    if !status.is_success() {
        return Err(SendError::of(response));
    }
    let read = response.body_mut().with_config().limit(RESPONSE_MAX).read_to_vec();
    let body = read.map_err(|error| SendError::Temporary {
        cause: format!("the response was incomplete: {error}"),
        wait: None,
    })?;
    let value = json::parse(&body).unwrap_or_default();
    let Some(id) = value["id"].as_str() else {
        let found = format!("the response with status {status} has no event id");
        return Err(SendError::Permanent(ClientError::UnexpectedResponse { found }));
    };
    Ok(Publication { id: id.into() })
}

/// Checks that the text is a JSON object with `data`. The error's text is a sentence whose subject
/// the caller adds: "DATA" or "line N".
fn check_object(text: &str) -> Result<(), String> {
    let wrong = |what: &str| {
        format!("must be a JSON object with `data`, as in {{\"data\":\"hi\"}}: {what}")
    };
    match json::parse(text.as_bytes()) {
        Ok(Value::Object(object)) if object.contains_key("data") => Ok(()),
        Ok(Value::Object(_)) => Err(wrong("it has no `data`")),
        Ok(_) => Err(wrong("it is not an object")),
        Err(error) => Err(wrong(&error.of("it"))),
    }
}
