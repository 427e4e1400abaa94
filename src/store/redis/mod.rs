//! A log that several nodes share: one stream of Redis (or Valkey), which gives
//! the ids, in which every node publishes, and which every node reads.
//!
//! ```text
//!  a node's publisher ── one script a batch ──▶ XADD, and what was published before
//!  a node's reader    ◀── XREAD BLOCK ───────── its own events too: one order for all
//! ```
//!
//! # Invariants
//!
//! * **What is not in Redis is not answered and not seen.** Where Redis gives no
//!   answer, the publisher is told that nobody knows.
//! * **A hole is seen.** Events are numbered without one, so what was trimmed, or
//!   what Redis has lost, is missing between two numbers.
//! * **No wait without an end**: connecting and answering have their deadlines.
//! * **A password is never shown**, by no log, error or `Debug`.

mod presence;
mod reader;
mod writer;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use redis::{Client, Connection, ErrorKind, RedisError, RedisResult, Script, ScriptInvocation};

pub(crate) use self::presence::{Row, prefixes_of};
pub(crate) use self::reader::{News, Reader};
pub(crate) use self::writer::{Answered, Asked, Bounds, Change, Writer};
use crate::error::{PublishError, StoreError, StoreProblem};
use crate::id::EventId;

/// How long connecting may take, and how long an answer.
const CONNECT: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(3);

/// After a failure, how long a publisher is refused without another attempt.
const PAUSE: Duration = Duration::from_millis(250);

/// What an address of Redis begins with, and a file does not.
const SCHEMES: [&str; 7] = [
    "redis://",
    "rediss://",
    "redis+unix://",
    "unix://",
    "valkey://",
    "valkeys://",
    "valkey+unix://",
];

/// Where events are kept.
///
/// ```
/// use threadcast::StoreAt;
///
/// assert!(matches!("history.redb".into(), StoreAt::File(_)));
/// assert!(matches!("redis://127.0.0.1".into(), StoreAt::Redis(_)));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAt {
    /// In a file, by this node alone; made if need be.
    File(PathBuf),
    /// In Redis, shared with every other node that names the same.
    Redis(RedisUrl),
}

impl From<OsString> for StoreAt {
    /// What begins like an address of Redis is one, and anything else a path.
    fn from(text: OsString) -> Self {
        match text.to_str() {
            Some(url) if SCHEMES.iter().any(|scheme| url.starts_with(scheme)) => {
                Self::Redis(RedisUrl(url.to_owned()))
            }
            _ => Self::File(text.into()),
        }
    }
}

impl From<PathBuf> for StoreAt {
    fn from(path: PathBuf) -> Self {
        path.into_os_string().into()
    }
}

impl From<&str> for StoreAt {
    fn from(text: &str) -> Self {
        OsString::from(text).into()
    }
}

/// The address of a Redis, as in `redis://:password@10.0.0.5:6379/0`. It is shown
/// without its password.
///
/// ```
/// use threadcast::StoreAt;
///
/// let store = StoreAt::from("redis://:secret@10.0.0.5:6379/1");
/// assert!(!format!("{store:?}").contains("secret"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match redis::parse_redis_url(&self.0) {
            Some(mut url) => {
                // Where there is none, there is none to take out.
                let _ = url.set_password(None);
                url.set_query(None);
                f.write_str(url.as_str())
            }
            // Any part of it may be a password.
            None => write!(f, "{}://…", self.0.split("://").next().unwrap_or_default()),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

/// Why Redis has not done what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It could not be asked, so nothing has happened.
    Away(String),
    /// It was asked and has not answered: it may have happened.
    Unanswered(String),
    /// It has refused, so nothing has happened.
    Refused(String),
    /// It has refused us.
    Denied(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Away(what) | Self::Unanswered(what) | Self::Refused(what) | Self::Denied(what)) =
            self;
        f.write_str(what)
    }
}

impl From<Trouble> for PublishError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Unanswered(reason) => Self::Unconfirmed { reason },
            other => Self::Store { reason: other.to_string() },
        }
    }
}

impl Trouble {
    fn of(error: &RedisError, unknown: bool) -> Self {
        let what = error.to_string();
        let denied = ["NOAUTH", "WRONGPASS", "NOPERM"];
        match error.kind() {
            ErrorKind::AuthenticationFailed => Self::Denied(what),
            ErrorKind::Server(_) | ErrorKind::Extension
                if error.code().is_some_and(|code| denied.contains(&code)) =>
            {
                Self::Denied(what)
            }
            ErrorKind::Server(_) | ErrorKind::Extension => Self::Refused(what),
            _ if unknown => Self::Unanswered(what),
            _ => Self::Away(what),
        }
    }

    /// The same, for who cannot start.
    pub(crate) fn at_start(self, url: &RedisUrl) -> StoreError {
        let problem = match self {
            // rustls says so within an error of reading or writing, in words alone.
            Self::Away(detail) | Self::Unanswered(detail) if detail.contains("certificate") => {
                StoreProblem::Untrusted { detail }
            }
            Self::Away(detail) | Self::Unanswered(detail) => StoreProblem::Unreachable { detail },
            Self::Denied(detail) => StoreProblem::Denied { detail },
            Self::Refused(detail) => StoreProblem::Rejected { detail },
        };
        StoreError { path: url.to_string().into(), problem }
    }
}

/// A connection, made when it is needed and dropped when it is broken.
struct Link {
    url: RedisUrl,
    open: Option<Connection>,
    /// The last failure, and when.
    broken: Option<(String, Instant)>,
}

impl Link {
    fn new(url: &RedisUrl) -> Self {
        Self { url: url.clone(), open: None, broken: None }
    }

    /// Asks Redis, which may take this much longer than an answer does.
    fn ask<T>(
        &mut self,
        longer: Duration,
        ask: impl FnOnce(&mut Connection) -> RedisResult<T>,
    ) -> Result<T, Trouble> {
        if let Some((what, since)) = &self.broken
            && since.elapsed() < PAUSE
        {
            return Err(Trouble::Away(what.clone()));
        }
        let (asked, sent) = match self.connected(longer) {
            Ok(connection) => (ask(connection), true),
            Err(error) => (Err(error), false),
        };
        self.broken = None;
        asked.map_err(|error| {
            let trouble = Trouble::of(&error, sent);
            // An answer may still be on its way, to be taken for the next one's; and who
            // refuses may have become a replica, and the name be another's by now.
            self.open = None;
            if !matches!(trouble, Trouble::Refused(_)) {
                self.broken = Some((trouble.to_string(), Instant::now()));
            }
            trouble
        })
    }

    fn connected(&mut self, longer: Duration) -> RedisResult<&mut Connection> {
        let connection = match self.open.take() {
            Some(open) => open,
            None => Client::open(self.url.0.as_str())?.get_connection_with_timeout(CONNECT)?,
        };
        connection.set_read_timeout(Some(ANSWER + longer))?;
        connection.set_write_timeout(Some(ANSWER))?;
        Ok(self.open.insert(connection))
    }

    /// The next is an attempt, however fresh the last failure is.
    fn try_again(&mut self) {
        self.broken = None;
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("url", &self.url).finish_non_exhaustive()
    }
}

/// A script, with what all of them begin with.
macro_rules! script {
    ($file:literal) => {
        redis::Script::new(concat!(include_str!("common.lua"), include_str!($file)))
    };
}
use script;

/// The arguments that every script begins with.
fn begin(script: &Script, last: EventId, bounds: Bounds) -> ScriptInvocation<'_> {
    let next = last.next();
    let mut invocation = script.prepare_invoke();
    invocation.arg(next.to_string()).arg(next.epoch).arg(bounds.events).arg(bounds.milliseconds());
    invocation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_shown_nowhere() {
        for url in [
            "redis://:secret@h:1/2",
            "rediss://u:secret@h",
            "redis+unix:///r.sock?pass=secret",
            "redis://:secret@h:port",
        ] {
            let StoreAt::Redis(at) = StoreAt::from(url) else { panic!("{url} is an address") };
            let shown = format!("{at} {at:?} {:?}", Link::new(&at));
            assert!(!shown.contains("secret") && shown.contains("redis"), "{shown}");
        }
    }
}
