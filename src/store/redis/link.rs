//! The connection to Redis: its address, its errors, and the arguments of every script.
//!
//! Every wait ends: connecting and each request have a deadline.

use std::fmt;
use std::time::{Duration, Instant};

use chrono::Local;
use redis::{Client, Connection, ErrorKind, RedisError, RedisResult, Script, ScriptInvocation};

use crate::error::{PublishError, StoreError, StoreProblem};
use crate::id::EventId;

/// How long a node waits for a connection to Redis, and for each response, at most.
const CONNECT: Duration = Duration::from_secs(2);
const RESPONSE: Duration = Duration::from_secs(3);

/// After a failure, requests fail immediately for this long. Then the next request connects again.
const PAUSE: Duration = Duration::from_millis(250);

/// Text that begins with one of these prefixes is the address of a Redis server.
const SCHEMES: [&str; 7] = [
    "redis://",
    "rediss://",
    "redis+unix://",
    "unix://",
    "valkey://",
    "valkeys://",
    "valkey+unix://",
];

/// The address of a Redis server, for example `redis://:password@10.0.0.5:6379/0`.
///
/// `Display` and `Debug` leave out the password.
///
/// ```
/// use threadcast::StoreAt;
///
/// let store = StoreAt::from("redis://:secret@10.0.0.5:6379/1");
/// assert!(!format!("{store:?}").contains("secret"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// Returns the address, if the text begins with a scheme of Redis.
    pub(in crate::store) fn of(text: &str) -> Option<Self> {
        SCHEMES.iter().any(|scheme| text.starts_with(scheme)).then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match redis::parse_redis_url(&self.0) {
            Some(mut url) => {
                // This fails for an address without a host, which has no password to remove.
                let _ = url.set_password(None);
                url.set_query(None);
                f.write_str(url.as_str())
            }
            // An address that cannot be parsed may have a password anywhere, so show only its
            // scheme.
            None => write!(f, "{}://…", self.0.split("://").next().unwrap_or_default()),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

/// The reason why a request to Redis has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LogError {
    /// The request could not be sent. It has had no effect.
    Unreachable(String),
    /// Redis did not answer the request. It may have had an effect.
    Unanswered(String),
    /// Redis rejected the request. It has had no effect.
    Rejected(String),
    /// Redis denied access.
    Denied(String),
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unreachable(what)
        | Self::Unanswered(what)
        | Self::Rejected(what)
        | Self::Denied(what)) = self;
        f.write_str(what)
    }
}

impl From<LogError> for PublishError {
    fn from(trouble: LogError) -> Self {
        match trouble {
            LogError::Unanswered(reason) => Self::Unconfirmed { reason },
            other => Self::Store { reason: other.to_string() },
        }
    }
}

impl LogError {
    /// Classifies an error. `sent` says whether the request may have reached Redis.
    fn of(error: &RedisError, sent: bool) -> Self {
        let what = error.to_string();
        let denied = ["NOAUTH", "WRONGPASS", "NOPERM"];
        match error.kind() {
            ErrorKind::AuthenticationFailed => Self::Denied(what),
            ErrorKind::Server(_) | ErrorKind::Extension
                if error.code().is_some_and(|code| denied.contains(&code)) =>
            {
                Self::Denied(what)
            }
            ErrorKind::Server(_) | ErrorKind::Extension => Self::Rejected(what),
            _ if sent => Self::Unanswered(what),
            _ => Self::Unreachable(what),
        }
    }

    /// Converts this error to the error with which the server fails to start.
    pub(crate) fn at_start(self, url: &RedisUrl) -> StoreError {
        let problem = match self {
            // rustls reports a bad certificate as an I/O error, which can be recognised only by its
            // text.
            Self::Unreachable(detail) | Self::Unanswered(detail)
                if detail.contains("certificate") =>
            {
                StoreProblem::Untrusted { detail }
            }
            Self::Unreachable(detail) | Self::Unanswered(detail) => {
                StoreProblem::Unreachable { detail }
            }
            Self::Denied(detail) => StoreProblem::Denied { detail },
            Self::Rejected(detail) => StoreProblem::Rejected { detail },
        };
        StoreError { path: url.to_string().into(), problem }
    }
}

/// A connection that is opened when it is first needed, and dropped after an error.
pub(super) struct Link {
    url: RedisUrl,
    open: Option<Connection>,
    /// The last failure and its time; `None` after a success or a rejection.
    broken: Option<(String, Instant)>,
}

impl Link {
    pub(super) fn new(url: &RedisUrl) -> Self {
        Self { url: url.clone(), open: None, broken: None }
    }

    /// Sends a request and waits for the response, up to [`RESPONSE`] plus `extra`.
    pub(super) fn call<T>(
        &mut self,
        extra: Duration,
        request: impl FnOnce(&mut Connection) -> RedisResult<T>,
    ) -> Result<T, LogError> {
        if let Some((what, since)) = &self.broken
            && since.elapsed() < PAUSE
        {
            return Err(LogError::Unreachable(what.clone()));
        }
        let (response, sent) = match self.connected(extra) {
            Ok(connection) => (request(connection), true),
            Err(error) => (Err(error), false),
        };
        self.broken = None;
        response.map_err(|error| {
            let error = LogError::of(&error, sent);
            // Reconnect after any error. On the old connection, a late response would be taken for
            // the response to the next request. And a server that rejects requests may have become
            // a replica; then its host name may resolve to the new primary.
            self.open = None;
            if !matches!(error, LogError::Rejected(_)) {
                self.broken = Some((error.to_string(), Instant::now()));
            }
            error
        })
    }

    fn connected(&mut self, extra: Duration) -> RedisResult<&mut Connection> {
        let connection = match self.open.take() {
            Some(open) => open,
            None => Client::open(self.url.0.as_str())?.get_connection_with_timeout(CONNECT)?,
        };
        connection.set_read_timeout(Some(RESPONSE + extra))?;
        connection.set_write_timeout(Some(RESPONSE))?;
        Ok(self.open.insert(connection))
    }

    /// Makes the next request connect again, even within [`PAUSE`] of the last failure.
    pub(super) fn try_again(&mut self) {
        self.broken = None;
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("url", &self.url).finish_non_exhaustive()
    }
}

/// The limits of the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogBounds {
    pub(crate) events: usize,
    pub(crate) age: Duration,
}

impl LogBounds {
    /// The maximum age in milliseconds, limited to a range that Redis accepts: 1 ms to 100 years.
    pub(super) fn milliseconds(self) -> u64 {
        milliseconds(self.age)
    }
}

pub(super) fn milliseconds(age: Duration) -> u64 {
    const CENTURY: u128 = 100 * 365 * 24 * 3_600_000;
    u64::try_from(age.as_millis().clamp(1, CENTURY)).expect("a century is short")
}

/// Loads a Lua script, with the text of `common.lua` before the text of the file.
macro_rules! script {
    ($file:literal) => {
        redis::Script::new(concat!(include_str!("common.lua"), include_str!($file)))
    };
}
pub(super) use script;

/// Begins a script call with the arguments that all scripts have in common.
pub(super) fn begin(script: &Script, last: EventId, bounds: LogBounds) -> ScriptInvocation<'_> {
    let next = last.next();
    let mut invocation = script.prepare_invoke();
    invocation.arg(next.to_string()).arg(next.epoch).arg(bounds.events).arg(bounds.milliseconds());
    invocation
}

/// The local time of day for a presence event.
pub(super) fn time_of_day() -> String {
    Local::now().format("%H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        for url in [
            "redis://:secret@h:1/2",
            "rediss://u:secret@h",
            "redis+unix:///r.sock?pass=secret",
            "redis://:secret@h:port",
        ] {
            let Some(at) = RedisUrl::of(url) else { panic!("{url} is an address") };
            let shown = format!("{at} {at:?} {:?}", Link::new(&at));
            assert!(!shown.contains("secret") && shown.contains("redis"), "{shown}");
        }
    }
}
