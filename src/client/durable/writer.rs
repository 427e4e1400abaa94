//! Creates a durable stream, and appends an input to it.
//!
//! # Invariants
//!
//! * **A retry writes nothing twice.** The writer is an idempotent producer: each of its requests has
//!   the next number, and its retries repeat that number.
//! * **The order of the input is kept.** The writer sends a request only after the response to the
//!   previous one.
//! * **Nothing waits for more input.** A request contains what had arrived when the response to the
//!   previous request arrived.

use std::io::{ErrorKind, Read};
use std::time::Duration;

use ureq::http::header::CONTENT_TYPE;
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::url::{StreamUrl, is_true, text};
use crate::client::error::ClientError;
use crate::client::http::{self, Http, Response, SendError};
use crate::client::lines::Lines;
use crate::client::retry::repeat;
use crate::json;
use crate::token::Token;

/// The size, in bytes, from which a request gets no more input.
const BATCH_BYTES: usize = 256 * 1024;

/// The options of a [`StreamWriter`].
#[derive(Debug, Clone)]
pub(crate) struct WriteOptions {
    /// The stream's URL.
    pub(crate) url: StreamUrl,
    /// The bearer token, if the server requires one.
    pub(crate) token: Option<Token>,
    /// The stream's media type. With `application/json`, each line of the input is a message.
    pub(crate) content_type: String,
    /// Whether to close the stream at the end of the input.
    pub(crate) close: bool,
    /// How long temporary failures of a request are retried.
    pub(crate) timeout: Duration,
}

/// Appends an input to a durable stream, over a keep-alive connection.
#[derive(Debug)]
pub(crate) struct StreamWriter {
    http: Http,
    options: WriteOptions,
    headers: HeaderMap,
    /// The number of the next request.
    seq: u64,
}

impl StreamWriter {
    /// Creates a writer. The writer connects when [`write`](Self::write) is called.
    pub(crate) fn new(options: WriteOptions) -> Self {
        let http = Http::new(options.url.server.clone(), options.token.as_ref(), |config| config);
        let headers = HeaderMap::from_iter([
            (PRODUCER_ID, producer_id()),
            (PRODUCER_EPOCH, HeaderValue::from_static("0")),
        ]);
        Self { http, options, headers, seq: 0 }
    }

    /// Creates the stream unless it exists, and appends the input as it is read.
    ///
    /// # Errors
    ///
    /// Fails if the server returns an error, if all attempts of a request within the timeout fail, or
    /// if a line of JSON is invalid. What was read before that line is appended.
    pub(crate) fn write(mut self, input: impl Read) -> Result<(), ClientError> {
        let content_type = &self.options.content_type;
        let content_type = HeaderValue::try_from(content_type).map_err(|_| {
            ClientError::Stream(format!("{content_type:?} is no media type; use text/plain, say"))
        })?;
        self.headers.insert(CONTENT_TYPE, content_type);
        self.create()?;
        let mut input = Input::new(input, &self.headers);
        while let Some(batch) = input.next()? {
            let appended = self.post(&batch.bytes, false);
            appended.map_err(|error| match batch.lines {
                Some((first, last)) => ClientError::Lines { first, last, cause: error.into() },
                None => error,
            })?;
        }
        if self.options.close { self.post(&[], true) } else { Ok(()) }
    }

    /// Creates the stream, unless it exists.
    fn create(&self) -> Result<(), ClientError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, self.headers[CONTENT_TYPE].clone());
        self.send(&Method::PUT, &headers, &[], |response| match response.status().as_u16() {
            // It exists, with another lifetime, or closed, or of another type. Appends may succeed, and
            // if they fail, the response to them has the reason.
            409 => Ok(()),
            _ => accepted(response),
        })
    }

    /// Appends bytes, or closes the stream.
    fn post(&mut self, bytes: &[u8], closes: bool) -> Result<(), ClientError> {
        let mut headers = self.headers.clone();
        headers.insert(PRODUCER_SEQ, self.seq.into());
        if closes {
            headers.insert(STREAM_CLOSED, HeaderValue::from_static("true"));
        }
        self.seq += 1;
        self.send(&Method::POST, &headers, bytes, |response| match response.status().as_u16() {
            409 if is_of_another_type(&response) => Err(self.other_type()),
            _ => accepted(response),
        })
    }

    /// Sends a request, and retries temporary failures until the timeout.
    fn send(
        &self,
        method: &Method,
        headers: &HeaderMap,
        body: &[u8],
        check: impl Fn(Response) -> Result<(), SendError>,
    ) -> Result<(), ClientError> {
        let WriteOptions { url, timeout, .. } = &self.options;
        let address = url.to_string();
        let sent = repeat(*timeout, |limit| {
            self.http.send(method, &address, headers, body, Some(limit)).and_then(&check)
        });
        sent.map_err(|error| url.explain(error))
    }

    fn other_type(&self) -> SendError {
        let WriteOptions { url, content_type, .. } = &self.options;
        let problem = format!(
            "{url}: the stream has another type than {content_type}; pass its type with --content-type"
        );
        SendError::Permanent(ClientError::Stream(problem))
    }
}

const PRODUCER_ID: HeaderName = HeaderName::from_static("producer-id");
const PRODUCER_EPOCH: HeaderName = HeaderName::from_static("producer-epoch");
const PRODUCER_SEQ: HeaderName = HeaderName::from_static("producer-seq");
const STREAM_CLOSED: HeaderName = HeaderName::from_static("stream-closed");

/// Returns an id that no other producer has.
fn producer_id() -> HeaderValue {
    let id = HeaderValue::try_from(format!("threadcast-{:032x}", fastrand::u128(..)));
    id.expect("hex digits are valid in a header")
}

/// Checks that the response is that of a durable stream which has accepted the request.
fn accepted(response: Response) -> Result<(), SendError> {
    if !response.status().is_success() {
        return Err(SendError::of(response));
    }
    if text(response.headers(), "stream-next-offset").is_none() {
        let found = "the response has no Stream-Next-Offset".into();
        return Err(SendError::Permanent(ClientError::UnexpectedResponse { found }));
    }
    Ok(())
}

/// Whether a response with status 409 has no other reason than the type.
fn is_of_another_type(response: &Response) -> bool {
    let headers = response.headers();
    !is_true(headers, "stream-closed") && text(headers, "producer-expected-seq").is_none()
}

/// The input, in the parts that are sent.
enum Input<R> {
    Bytes(R),
    /// NDJSON, and an error that comes after the messages before it.
    Messages(Lines<R>, Option<ClientError>),
}

/// The body of one request, and the first and the last line in it if the input has lines.
struct Batch {
    bytes: Vec<u8>,
    lines: Option<(u64, u64)>,
}

impl<R: Read> Input<R> {
    fn new(input: R, headers: &HeaderMap) -> Self {
        if http::media_type(headers) == "application/json" {
            return Self::Messages(Lines::new(input), None);
        }
        Self::Bytes(input)
    }

    /// Returns what has arrived, or waits for it; `None` at the end.
    fn next(&mut self) -> Result<Option<Batch>, ClientError> {
        match self {
            Self::Bytes(input) => read(input),
            Self::Messages(lines, error) => match error.take() {
                Some(error) => Err(error),
                None => messages(lines, error),
            },
        }
    }
}

fn read(input: &mut impl Read) -> Result<Option<Batch>, ClientError> {
    let mut bytes = vec![0; BATCH_BYTES];
    loop {
        match input.read(&mut bytes) {
            Ok(0) => return Ok(None),
            Ok(length) => {
                bytes.truncate(length);
                return Ok(Some(Batch { bytes, lines: None }));
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(ClientError::Input(error)),
        }
    }
}

/// Returns the next line, and those that have arrived with it, as a JSON array.
fn messages<R: Read>(
    lines: &mut Lines<R>,
    error: &mut Option<ClientError>,
) -> Result<Option<Batch>, ClientError> {
    let Some((first, message)) = message(lines)? else { return Ok(None) };
    let (mut bytes, mut last) = (format!("[{message}"), first);
    while lines.is_waiting() && bytes.len() < BATCH_BYTES {
        match self::message(lines) {
            Ok(Some((number, message))) => {
                last = number;
                bytes.extend([",", &message]);
            }
            Ok(None) => break,
            Err(later) => {
                *error = Some(later);
                break;
            }
        }
    }
    bytes.push(']');
    Ok(Some(Batch { bytes: bytes.into_bytes(), lines: Some((first, last)) }))
}

/// Returns the next line that is not blank, and its number.
fn message<R: Read>(lines: &mut Lines<R>) -> Result<Option<(u64, String)>, ClientError> {
    while let Some(line) = lines.next()? {
        if line.text.trim().is_empty() {
            continue; // NDJSON readers ignore blank lines
        }
        return match json::elements(line.text.as_bytes()) {
            Ok(_) => Ok(Some((line.number, line.text))),
            Err(error) => {
                let reason = format!(
                    "is {error}; with --content-type application/json, each line is a message"
                );
                Err(ClientError::Line { number: line.number, reason })
            }
        };
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(content_type: &str, input: &str) -> Vec<Result<String, String>> {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, content_type.parse().unwrap())]);
        let mut input = Input::new(input.as_bytes(), &headers);
        let next = || match input.next() {
            Ok(batch) => Ok(String::from_utf8(batch?.bytes).unwrap()).into(),
            Err(error) => Some(Err(error.to_string())),
        };
        std::iter::from_fn(next).take(3).collect()
    }

    #[test]
    fn lines_of_json_are_messages() {
        let batches = batches("Application/JSON; charset=utf-8", "[1]\n\n{\"a\": 2.50}\r\n\"x\"\n");
        assert_eq!(batches, [Ok("[[1],{\"a\": 2.50},\"x\"]".into())]);
    }

    #[test]
    fn messages_before_an_invalid_line_are_sent() {
        let batches = batches("application/json", "1\n2\n{a}\n3\n");
        assert_eq!(batches[0], Ok("[1,2]".into()));
        let error = batches[1].as_ref().unwrap_err();
        assert!(error.starts_with("line 3 is not JSON: "), "{error}");
    }

    #[test]
    fn other_types_are_sent_as_they_are() {
        assert_eq!(batches("text/plain", "a\r\n\nb"), [Ok("a\r\n\nb".into())]);
    }
}
