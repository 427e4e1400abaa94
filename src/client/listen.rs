//! Listening: what `EventSource` does in a page, as a program.
//!
//! ```text
//!  connect ──200──▶ read, print ──end, error, silence──▶ wait ──▶ connect …
//!     │                                                   ▲
//!     ├─ unreachable, 408, 429, 502 to 504 ── longer and longer, or Retry-After ──┘
//!     ├─ 204 ──▶ done
//!     └─ anything else ──▶ error
//! ```
//!
//! # Invariants
//!
//! * **An event is out before the next one is looked at**, so whoever reads us
//!   line by line is never behind.
//! * **Every wait ends when we are asked to stop**: the pauses wait on a doorbell,
//!   and [`Stop`] shuts the socket that a read waits on.

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use ureq::Agent;
use ureq::http::header::{ACCEPT, CACHE_CONTROL};
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::http::{self, Answer, Http, NoAnswer};
use super::print::print;
use super::{ClientError, Decoder, ServerUrl, jittered};
use crate::token::Token;

/// The wait before a reconnection until the server names one.
const RETRY: Duration = Duration::from_secs(3);

/// The wait before the second attempt to reach a server that was never there.
const BACKOFF_MIN: Duration = Duration::from_millis(500);

/// The longest wait before an attempt to reach a server that is not there, unless
/// the server itself asked for a longer one when it was.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// The shortest wait, whatever the server says: `retry: 0` is no reason to spin.
const WAIT_MIN: Duration = Duration::from_millis(50);

/// The longest wait, whatever the server says: an absurd `retry:` must not keep a listener away.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// What to listen to, and how to say it.
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
    /// The server.
    pub server: ServerUrl,
    /// What lets us listen, if the server asks for it.
    pub token: Option<Token>,
    /// Names, and patterns with a trailing `*`.
    pub channels: Vec<String>,
    /// From where on, until the first event has come: an id, a time, or `all`.
    pub since: Option<String>,
    /// Each event as an object, rather than its data alone.
    pub json: bool,
    /// Stop after so many events.
    pub count: Option<u64>,
    /// A connection on which nothing at all has come for so long is given up.
    pub silence: Duration,
    /// The longest event, in bytes of data; a longer one is skipped with a warning.
    pub event_limit: usize,
}

/// Prints what is published, and comes back after every interruption.
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
    /// How many events are still wanted.
    left: u64,
    stop: Stop,
    stopped: Receiver<()>,
}

/// Ends a [`Listener`] from another thread, whatever it waits for.
///
/// ```
/// use std::io;
/// use std::time::Duration;
/// use threadcast::client::{Decoder, ListenOptions, Listener};
///
/// let listener = Listener::new(ListenOptions {
///     server: "http://127.0.0.1:9".parse()?, // nobody is there, so it would try for ever
///     token: None,
///     channels: vec!["news".into()],
///     since: None,
///     json: false,
///     count: None,
///     silence: Duration::from_secs(60),
///     event_limit: Decoder::LIMIT,
/// });
/// let stop = listener.stopper();
/// let running = std::thread::spawn(move || listener.run(&mut io::sink(), &mut io::sink()));
/// stop.stop();
/// running.join().expect("it did not panic")?;
/// # Ok::<(), threadcast::client::ClientError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Stop {
    doorbell: Sender<()>,
    agent: Agent,
}

impl Stop {
    /// Ends it. A listener that has not begun to run ends as it begins.
    pub fn stop(self) {
        let _ = self.doorbell.try_send(()); // full: it was rung before
        self.agent.shutdown();
    }
}

/// What a server answered to the request for a stream.
enum Connected {
    Stream(Answer),
    /// 204: there is nothing left to read.
    Over,
    /// Not now: why, and how long the server asks to wait.
    Later(String, Option<Duration>),
}

/// How a connection ended.
enum End {
    /// There is nothing left to do.
    Over,
    /// To be resumed.
    Lost,
}

impl Listener {
    /// A listener that has not connected yet.
    pub fn new(options: ListenOptions) -> Self {
        let silence = Some(options.silence);
        let http = Http::new(options.server.clone(), options.token.as_ref(), |config| {
            config.timeout_recv_response(silence).timeout_per_read(silence)
        });
        let (doorbell, stopped) = bounded(1);
        let stop = Stop { doorbell, agent: http.agent.clone() };
        let left = options.count.unwrap_or(u64::MAX);
        let decoder = Decoder::with_limit(options.event_limit);
        Self { http, options, decoder, left, stop, stopped }
    }

    /// What ends this listener.
    pub fn stopper(&self) -> Stop {
        self.stop.clone()
    }

    /// Listens until there is nothing more to do: enough events, 204, nobody reads
    /// `out` any more, or [`Stop`].
    ///
    /// Events go to `out`. What is missing goes to `warnings`, unless it is told
    /// as JSON: then it is an event like any other.
    pub fn run(mut self, out: &mut dyn Write, warnings: &mut dyn Write) -> Result<(), ClientError> {
        let mut failures = 0;
        while !self.is_stopped() && self.left > 0 {
            let wait = match self.connect() {
                Ok(Connected::Over) => return Ok(()),
                Ok(Connected::Stream(answer)) => {
                    failures = 0;
                    match self.read(answer, out, warnings)? {
                        End::Over => return Ok(()),
                        End::Lost => self.decoder.retry().unwrap_or(RETRY),
                    }
                }
                Err(_) if self.is_stopped() => return Ok(()),
                Err(NoAnswer::Hopeless(error)) => return Err(error),
                Ok(Connected::Later(cause, after)) => self.wait_after(&cause, after, &mut failures),
                Err(NoAnswer::Unreachable(cause)) => self.wait_after(&cause, None, &mut failures),
            };
            if self.stopped.recv_timeout(jittered(sane(wait))).is_ok() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        !self.stopped.is_empty()
    }

    /// How long to wait after an attempt that may succeed later: as long as the server asks, or
    /// longer with each failure.
    fn wait_after(&self, cause: &str, asked: Option<Duration>, failures: &mut u32) -> Duration {
        let wait = sane(asked.unwrap_or_else(|| backoff(self.decoder.retry(), *failures)));
        *failures += 1;
        log::warn!("{cause}; trying again in {wait:.1?}");
        wait
    }

    /// Asks for the stream.
    fn connect(&self) -> Result<Connected, NoAnswer> {
        let (url, headers) = self.request();
        let answer = self.http.send(&Method::GET, &url, &headers, &[], None)?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NO_CONTENT => return Ok(Connected::Over),
            status if http::may_pass(status) => {
                let asked = http::retry_after(answer.headers());
                return Ok(Connected::Later(http::error_of(answer).to_string(), asked));
            }
            _ => return Err(NoAnswer::Hopeless(http::error_of(answer))),
        }
        let media_type = http::media_type(answer.headers());
        if media_type != "text/event-stream" {
            let media_type =
                if media_type.is_empty() { "nothing typed".into() } else { media_type };
            let found = format!("the server answered with {media_type}, not with an event stream");
            return Err(NoAnswer::Hopeless(ClientError::NotOurs { found }));
        }
        Ok(Connected::Stream(answer))
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
            // A header takes any UTF-8, but no control characters and no spaces around.
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

    /// One connection's stream, to its end.
    fn read(
        &mut self,
        answer: Answer,
        out: &mut dyn Write,
        warnings: &mut dyn Write,
    ) -> Result<End, ClientError> {
        let mut body = answer.into_body().into_reader();
        let mut bytes = vec![0; 16 * 1024];
        self.decoder.restart();
        loop {
            let length = match body.read(&mut bytes) {
                Ok(0) => {
                    log::debug!("the stream ended");
                    return Ok(End::Lost);
                }
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    log::debug!("the stream broke: {error}");
                    return Ok(End::Lost);
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
                self.options.since = None; // from here on, the cursor says where we are
                match print(&event, self.options.json, out, warnings) {
                    Ok(printed) => self.left -= u64::from(printed),
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(End::Over),
                    Err(error) => return Err(ClientError::Output(error)),
                }
                if self.left == 0 {
                    return Ok(End::Over);
                }
            }
            if !self.decoder.last_event_id().is_empty() {
                self.options.since = None;
            }
        }
    }
}

/// A wait that neither spins nor keeps the listener away.
fn sane(wait: Duration) -> Duration {
    wait.clamp(WAIT_MIN, WAIT_MAX)
}

/// How long to leave a server alone that did not answer.
fn backoff(retry: Option<Duration>, failures: u32) -> Duration {
    let first = retry.unwrap_or(BACKOFF_MIN).max(WAIT_MIN);
    let longer = first.saturating_mul(2_u32.saturating_pow(failures));
    longer.min(BACKOFF_MAX.max(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_half_a_minute_but_never_below_what_the_server_asks() {
        let waits = |retry: Option<u64>| {
            let retry = retry.map(Duration::from_secs);
            [0, 1, 5, 6, 1000].map(|failures| backoff(retry, failures).as_millis())
        };
        assert_eq!(waits(None), [500, 1_000, 16_000, 30_000, 30_000]);
        assert_eq!(waits(Some(20)), [20_000, 30_000, 30_000, 30_000, 30_000]);
        assert_eq!(waits(Some(120)), [120_000; 5]);
    }

    #[test]
    fn an_absurd_wait_is_bounded() {
        assert_eq!(sane(Duration::from_millis(99_999_999_999)), Duration::from_secs(300));
        assert_eq!(sane(Duration::ZERO), WAIT_MIN);
    }
}
