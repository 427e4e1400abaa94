//! Publishing: each event once, however often it has to be sent.
//!
//! # Invariants
//!
//! * **A retry does not double.** Every POST has an `Idempotency-Key` of its own,
//!   and its retries have the same.
//! * **The order is the input's.** One POST at a time, and the next one only when
//!   the one before it was answered.
//! * **A line waits for no other line.** Lines go together only if they are there
//!   already when the way becomes free.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use ureq::http::header::CONTENT_TYPE;
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::http::{self, Answer, Http, NoAnswer};
use super::lines::{Line, Lines};
use super::{ClientError, ServerUrl, jittered};
use crate::json;
use crate::token::Token;

/// How many bytes may go together.
const BATCH_BYTES: usize = 256 * 1024;

/// How many lines may go together: a part of the history that a channel keeps, so
/// that a batch pushes nobody off it who is only a moment behind.
const BATCH_LINES: usize = 256;

/// How long one attempt may take, in the time that all of them have.
const ATTEMPT: Duration = Duration::from_secs(10);

/// The wait before the first retry; each further one is twice as long.
const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How much of an answer is read.
const ANSWER_MAX: u64 = 64 * 1024;

/// Where to publish, and what each event has in common.
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
///     timeout: Duration::from_secs(30),
///     on_error: OnError::Skip,
/// };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct PublishOptions {
    /// The server.
    pub server: ServerUrl,
    /// What lets us publish, if the server asks for it.
    pub token: Option<Token>,
    /// The channel's name.
    pub channel: String,
    /// The events' type.
    pub event: Option<String>,
    /// The wait before a reconnection that the events carry.
    pub retry: Option<Duration>,
    /// Data is a JSON object with `data`, and perhaps `event`, `id` and `retry`.
    pub json: bool,
    /// For how long a POST that may yet succeed is tried again.
    pub timeout: Duration,
    /// What becomes of a line of the input that cannot be published.
    pub on_error: OnError,
}

/// What becomes of a line of the input that cannot be an event, or that the server rejects with
/// 400, 413 or 422.
///
/// ```
/// use threadcast::client::OnError;
///
/// assert_eq!(OnError::default(), OnError::Skip);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// It is skipped with a warning, and the lines around it are published.
    #[default]
    Skip,
    /// Publishing stops there.
    Stop,
}

/// Publishes to one channel, over a connection that is kept.
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

/// What the server answered to one POST.
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
    /// The event's id; of several, the last one's.
    pub id: String,
}

impl Publisher {
    /// A publisher that has not connected yet.
    pub fn new(options: PublishOptions) -> Self {
        let http = Http::new(options.server.clone(), options.token.as_ref(), |config| config);
        Self { http, options }
    }

    /// Publishes one event, with an id of its own if there is one.
    pub fn publish(&self, data: &str, id: Option<&str>) -> Result<Publication, ClientError> {
        if self.options.json {
            check_object(data).map_err(|reason| ClientError::Data { reason })?;
        }
        self.post(&self.single(data, id))
    }

    /// Publishes each line of `input`, as they come. The ids go to `ids`, one a
    /// line; then every line is sent by itself, because a batch is answered with
    /// its last id only.
    ///
    /// Fails with [`ClientError::Skipped`] at the end of the input if lines were skipped, and at once
    /// for what is no single line's fault: the server cannot be reached, or the token does not
    /// suffice.
    pub fn publish_lines(
        &self,
        input: impl Read,
        mut ids: Option<&mut dyn Write>,
    ) -> Result<(), ClientError> {
        let mut lines = Lines::new(input);
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
                    // What does not fit, or is an error, is for after this batch.
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
                // All of a batch or none: each line by itself says which one it is.
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
        if skipped > 0 { Err(ClientError::Skipped { skipped, published }) } else { Ok(()) }
    }

    /// Counts a line that cannot be published, or fails if that is no line's fault or not wanted.
    fn skip(&self, error: ClientError, skipped: &mut u64) -> Result<(), ClientError> {
        if !self.may_skip(&error) {
            return Err(error);
        }
        *skipped += 1;
        log::warn!("skipped: {error}");
        Ok(())
    }

    fn may_skip(&self, error: &ClientError) -> bool {
        self.options.on_error == OnError::Skip && error.is_a_lines()
    }

    /// The next line that is an event.
    fn next(&self, lines: &mut Lines<impl Read>) -> Result<Option<Line>, ClientError> {
        loop {
            let Some(line) = lines.next()? else { return Ok(None) };
            if self.options.json {
                if line.text.trim().is_empty() {
                    continue; // as NDJSON is read everywhere
                }
                check_object(&line.text)
                    .map_err(|reason| ClientError::Line { number: line.number, reason })?;
            }
            return Ok(Some(line));
        }
    }

    /// Whether a line fits into a batch that has so many `bytes`, which then count it.
    fn fits(&self, line: &Line, bytes: &mut usize) -> bool {
        let length = self.encode(&line.text).len() + 1;
        let fits = *bytes + length <= BATCH_BYTES;
        *bytes += if fits { length } else { 0 };
        fits
    }

    /// One line as an event, several as NDJSON.
    fn body_of<'a>(&self, lines: &'a [Line]) -> Post<'a> {
        if let [line] = lines {
            return self.single(&line.text, None);
        }
        let mut body = Vec::new();
        for line in lines {
            body.extend_from_slice(self.encode(&line.text).as_bytes());
            body.push(b'\n');
        }
        let content_type = "application/x-ndjson";
        Post { query: String::new(), content_type, body: Cow::Owned(body) }
    }

    /// A line as NDJSON has it, without its LF.
    fn encode<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.options.json {
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

    fn single<'a>(&self, data: &'a str, id: Option<&str>) -> Post<'a> {
        let body = Cow::Borrowed(data.as_bytes());
        if self.options.json {
            return Post { query: String::new(), content_type: "application/json", body };
        }
        let mut query = form_urlencoded::Serializer::new(String::new());
        let retry = self.options.retry.map(|retry| milliseconds(retry).to_string());
        let fields =
            [("event", self.options.event.as_deref()), ("id", id), ("retry", retry.as_deref())];
        for (name, value) in fields {
            value.map(|value| query.append_pair(name, value));
        }
        Post { query: query.finish(), content_type: "text/plain; charset=utf-8", body }
    }

    /// Sends until it is answered, or there is no hope, or no time.
    fn post(&self, post: &Post<'_>) -> Result<Publication, ClientError> {
        let mut url = self.options.server.channel(&self.options.channel);
        if !post.query.is_empty() {
            write!(url, "?{}", post.query).expect("a String takes what is written to it");
        }
        let key = format!("{:032x}", fastrand::u128(..));
        let key = HeaderValue::try_from(key).expect("hex digits are visible");
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("idempotency-key"), key);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(post.content_type));

        let (started, timeout) = (Instant::now(), self.options.timeout);
        let mut backoff = BACKOFF_MIN;
        loop {
            let left = timeout.saturating_sub(started.elapsed()).clamp(BACKOFF_MIN, ATTEMPT);
            let (cause, asked) =
                match self.http.send(&Method::POST, &url, &headers, &post.body, Some(left)) {
                    Ok(answer) if answer.status().is_success() => match publication(answer) {
                        Ok(published) => return published,
                        Err(cause) => (cause, None),
                    },
                    Ok(answer) if http::may_pass(answer.status()) => {
                        let asked = http::retry_after(answer.headers());
                        (http::error_of(answer).to_string(), asked)
                    }
                    Ok(answer) => return Err(http::error_of(answer)),
                    Err(NoAnswer::Unreachable(cause)) => (cause, None),
                    Err(NoAnswer::Hopeless(error)) => return Err(error),
                };
            let wait = asked.unwrap_or_else(|| jittered(backoff));
            if started.elapsed().saturating_add(wait) >= timeout {
                let after = Duration::from_millis(milliseconds(started.elapsed()));
                let cause = match asked {
                    Some(wait) => format!("{cause} (it asks us to wait {wait:?})"),
                    None => cause,
                };
                return Err(ClientError::GaveUp { after, cause });
            }
            log::warn!("{cause}; trying again in {wait:.1?}");
            thread::sleep(wait);
            backoff = BACKOFF_MAX.min(backoff * 2);
        }
    }
}

/// What one POST sends.
struct Post<'a> {
    query: String,
    content_type: &'static str,
    body: Cow<'a, [u8]>,
}

/// Prints the id of what was published, for as long as the output is read.
fn print_id(ids: &mut Option<&mut dyn Write>, last: &Publication) -> Result<(), ClientError> {
    let Some(out) = ids else { return Ok(()) };
    match writeln!(out, "{}", last.id).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => *ids = None,
        written => written.map_err(ClientError::Output)?,
    }
    Ok(())
}

impl ClientError {
    /// The error of a POST of these lines.
    fn of_lines(self, lines: &[Line]) -> Self {
        let number = |line: Option<&Line>| line.map_or(0, |line| line.number);
        let (first, last) = (number(lines.first()), number(lines.last()));
        Self::Lines { first, last, cause: Box::new(self) }
    }

    /// Whether it is the fault of a line of the input, and the others may be published.
    fn is_a_lines(&self) -> bool {
        match self {
            Self::Line { .. } => true,
            Self::Lines { cause, .. } => {
                matches!(**cause, Self::Refused { status: 400 | 413 | 422, .. })
            }
            _ => false,
        }
    }
}

/// What an answer says; the outer error is one that may pass.
fn publication(mut answer: Answer) -> Result<Result<Publication, ClientError>, String> {
    let body = answer.body_mut().with_config().limit(ANSWER_MAX).read_to_vec();
    let body = body.map_err(|error| format!("the answer was cut off: {error}"))?;
    let value = json::parse(&body).unwrap_or_default();
    let ours = value["id"].as_str().map(|id| Publication { id: id.into() });
    Ok(ours.ok_or_else(|| {
        let status = answer.status();
        ClientError::NotOurs { found: format!("what answered {status} named no event's id") }
    }))
}

/// Whether this is an event as `application/json` has it; if not, what is wrong.
fn check_object(text: &str) -> Result<(), String> {
    let wrong = |what: &str| {
        format!("must be a JSON object with `data`, as in {{\"data\":\"hi\"}}: {what}")
    };
    match json::parse(text.as_bytes()) {
        Ok(Value::Object(object)) if object.contains_key("data") => Ok(()),
        Ok(Value::Object(_)) => Err(wrong("it has no `data`")),
        Ok(_) => Err(wrong("it is no object")),
        Err(error) => Err(wrong(&error.of("it"))),
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
