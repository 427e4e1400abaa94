//! What the bearer of a request may do: found once, by its token, and then asked by
//! whatever route it takes.
//!
//! A token is a static one, which grants all of its role, or a JWT, which says itself
//! what it grants. Without either on the server reading is open, and publishing is for
//! this machine.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::challenge::{insufficient, invalid, missing};
use super::credentials::{self, Api, Carrier, Credentials};
use super::local::{is_foreign, origin_of};
use crate::http::Config;
use crate::http::connection::Exchange;
use crate::http::error::HttpError;
use crate::http::mercure::is_reserved;
use crate::jwt::{Believed, Rejected, Rights, VerifyingKey};
use crate::matcher::{Matcher, MatcherError};
use crate::registry::Readable;
use crate::token::Token;

/// What somebody may read.
#[derive(Debug, Default)]
pub(in crate::http) struct ReadAccess {
    scope: ReadScope,
    /// When his streams end at the latest.
    pub(in crate::http) until: Option<Instant>,
    /// Whether the token stood in the URL: no cache may keep the answer for others.
    pub(in crate::http) by_query: bool,
}

/// Which private updates.
#[derive(Debug, Default)]
enum ReadScope {
    #[default]
    None,
    These(Box<Rights>),
    All,
}

impl ReadAccess {
    /// The reader that this request is of. Fails if reading takes a token, and it has
    /// none; or if it has one that is not believed, even where none is needed.
    pub(in crate::http) fn of(exchange: &Exchange<'_>, api: Api) -> Result<Self, HttpError> {
        let config = &exchange.server.config;
        let keys = RoleKeys::new(config.subscribe_token.as_ref(), config.subscribe_key.as_ref());
        keys.map_or(Ok(Self::default()), |keys| Self::behind(&keys, exchange, api))
    }

    #[inline(never)] // where there is no lock, there is no frame for it
    fn behind(keys: &RoleKeys<'_>, exchange: &Exchange<'_>, api: Api) -> Result<Self, HttpError> {
        let config = &exchange.server.config;
        // On our own routes a session reads although a header publishes, as for a WebSocket.
        if api == Api::Own
            && let Some(session) = credentials::session(&exchange.request)
            && let Ok(reader) = Self::bearing(&session, keys, config)
        {
            return Ok(reader);
        }
        let Some(credentials) = credentials::token(&exchange.request, api)? else {
            let anonymous = config.anonymous.then(Self::default);
            return anonymous.ok_or_else(|| missing(config));
        };
        Self::bearing(&credentials, keys, config)
    }

    fn bearing(
        credentials: &Credentials,
        keys: &RoleKeys<'_>,
        config: &Config,
    ) -> Result<Self, HttpError> {
        let by_query = credentials.by == Carrier::Query;
        match keys.check(credentials, config)? {
            None => Ok(Self { scope: ReadScope::All, until: None, by_query }),
            Some(Believed { rights, expires }) => {
                let scope = ReadScope::These(Box::new(rights));
                Ok(Self { scope, until: expires.map(instant), by_query })
            }
        }
    }

    /// The bearer token in the header, if it lets its bearer read: for a session.
    pub(in crate::http) fn bearer(exchange: &Exchange<'_>) -> Result<Vec<u8>, HttpError> {
        let config = &exchange.server.config;
        let credentials = credentials::token(&exchange.request, Api::Own)?;
        let credentials = credentials.filter(|it| it.by == Carrier::Header);
        let credentials = credentials.ok_or_else(|| missing(config))?;
        let keys =
            RoleKeys { token: config.subscribe_token.as_ref(), key: config.subscribe_key.as_ref() };
        keys.check(&credentials, config).map(|_| credentials.token)
    }

    /// The private updates that he may read.
    pub(in crate::http) fn readable(&self) -> Readable {
        match &self.scope {
            ReadScope::None => Readable::Public,
            ReadScope::These(rights) => Readable::Matching(Arc::clone(&rights.subscribe)),
            ReadScope::All => Readable::All,
        }
    }

    /// The rights that his token names, if it names any.
    pub(in crate::http) fn rights(&self) -> Option<&Rights> {
        match &self.scope {
            ReadScope::These(rights) => Some(rights),
            ReadScope::None | ReadScope::All => None,
        }
    }

    /// Whether its token is a JWT about this person (`sub`) that may read each of these topics.
    pub(in crate::http) fn is_of<'a>(
        &self,
        name: &str,
        mut topics: impl Iterator<Item = &'a str>,
    ) -> bool {
        let Some(rights) = self.rights() else { return false };
        rights.subject.as_deref() == Some(name) && topics.all(|topic| any(&rights.subscribe, topic))
    }

    /// Fails unless he may hear of every channel there is: where updates are private, so are
    /// their topics' names.
    #[inline(never)] // as above
    pub(in crate::http) fn check_all(&self, exchange: &Exchange<'_>) -> Result<(), HttpError> {
        let config = &exchange.server.config;
        let is_open = config.subscribe_token.is_none() && config.subscribe_key.is_none();
        match &self.scope {
            _ if !config.mercure.is_on() || is_open => Ok(()),
            ReadScope::All => Ok(()),
            ReadScope::These(rights) if rights.subscribe.iter().any(Matcher::is_any) => Ok(()),
            ReadScope::These(_) => Err(insufficient(config)),
            ReadScope::None => Err(missing(config)),
        }
    }

    /// Fails unless he may read what is private to this topic.
    pub(in crate::http) fn check_private(
        &self,
        exchange: &Exchange<'_>,
        topic: &str,
    ) -> Result<(), HttpError> {
        let config = &exchange.server.config;
        match &self.scope {
            ReadScope::All => Ok(()),
            ReadScope::These(rights) if any(&rights.subscribe, topic) => Ok(()),
            ReadScope::These(_) => Err(insufficient(config)),
            ReadScope::None => Err(missing(config)),
        }
    }
}

/// Who may publish, and what to.
#[derive(Debug)]
pub(in crate::http) enum PublishAccess {
    /// To everything.
    All,
    These(Arc<[Matcher]>),
}

impl PublishAccess {
    /// The publisher that this request is of. A page of another origin is none. Without a token
    /// a request must be local (see [`Locality`](super::Locality)); with one everybody needs it.
    #[inline(never)] // as above
    pub(in crate::http) fn of(exchange: &Exchange<'_>, api: Api) -> Result<Self, HttpError> {
        let (request, config) = (&exchange.request, &exchange.server.config);
        exchange.locality.check_origin()?;
        let keys = RoleKeys::new(config.publish_token.as_ref(), config.publish_key.as_ref());
        let Some(keys) = keys else {
            return exchange.locality.check_local().map(|()| Self::All);
        };
        // A session is for reading: its cookie publishes nothing.
        let credentials = credentials::token(request, api)?;
        let credentials = credentials.filter(|it| api == Api::Mercure || it.by != Carrier::Cookie);
        let credentials = credentials.ok_or_else(|| missing(config))?;
        if credentials.by == Carrier::Cookie {
            check_page(exchange)?;
        }
        let believed = keys.check(&credentials, config)?;
        Ok(believed.map_or(Self::All, |believed| Self::These(believed.rights.publish)))
    }

    /// Fails unless he may publish to each of these. The hub's own topics are refused whatever
    /// the token says.
    #[inline(never)] // as above
    pub(in crate::http) fn check<'a>(
        &self,
        exchange: &Exchange<'_>,
        topics: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), HttpError> {
        let config = &exchange.server.config;
        let topics: Vec<&str> = topics.into_iter().collect();
        if config.mercure.is_on() && topics.iter().any(|topic| is_reserved(topic)) {
            let detail = "/.well-known/mercure and the topics below it are reserved for the hub; publish to another topic";
            return Err(HttpError::new(400, detail));
        }
        let may = |topic: &&str| match self {
            Self::All => true,
            Self::These(matchers) => any(matchers, topic),
        };
        if topics.iter().all(may) { Ok(()) } else { Err(insufficient(&exchange.server.config)) }
    }

    /// Fails if there is nothing that he may publish to.
    pub(in crate::http) fn check_any(&self, exchange: &Exchange<'_>) -> Result<(), HttpError> {
        match self {
            Self::These(matchers) if matchers.is_empty() => {
                Err(insufficient(&exchange.server.config))
            }
            _ => Ok(()),
        }
    }
}

/// What opens one of the two roles.
struct RoleKeys<'a> {
    token: Option<&'a Token>,
    key: Option<&'a VerifyingKey>,
}

impl<'a> RoleKeys<'a> {
    /// `None` if the role has none.
    fn new(token: Option<&'a Token>, key: Option<&'a VerifyingKey>) -> Option<Self> {
        (token.is_some() || key.is_some()).then_some(Self { token, key })
    }

    /// What the token opens: all, or what it says.
    fn check(
        &self,
        credentials: &Credentials,
        config: &Config,
    ) -> Result<Option<Believed>, HttpError> {
        if self.token.is_some_and(|token| token.is(&credentials.token)) {
            return Ok(None);
        }
        let audience = config.jwt_audience.as_deref();
        let Some(key) = self.key else { return Err(invalid("it is another token", config)) };
        match key.check(&credentials.token, audience) {
            // RFC 9700 §2.4 forbids tokens in URLs; 0.x has them there.
            Ok(believed) if credentials.by == Carrier::Query && !believed.rights.is_older => {
                Err(invalid("it is a token of the current generation in the query", config))
            }
            Ok(believed) => Ok(Some(believed)),
            Err(Rejected::Full) => Err(MatcherError::Full.into()),
            Err(Rejected::Invalid(reason)) => Err(invalid(reason, config)),
        }
    }
}

/// A cookie comes with whatever any page asks for: that it was one of ours, or one that
/// is named, must be said. Browsers say it with every POST.
fn check_page(exchange: &Exchange<'_>) -> Result<(), HttpError> {
    let (request, config) = (&exchange.request, &exchange.server.config);
    if request.header("origin").is_some() {
        return Ok(()); // and it is no foreign one
    }
    let origin = request.text("referer").and_then(origin_of);
    if origin.is_some_and(|page| !is_foreign(request, page) || config.cors_origins.has(page)) {
        return Ok(());
    }
    let detail = "with a cookie, publishing takes an Origin or a Referer of this server or of \
                  one that --cors-origin names; send the token as a header instead";
    Err(HttpError::new(403, detail))
}

fn any(matchers: &[Matcher], topic: &str) -> bool {
    matchers.iter().any(|matcher| matcher.matches(topic))
}

/// The same moment on the clock that waits are counted by.
fn instant(expires: SystemTime) -> Instant {
    let left = expires.duration_since(SystemTime::now()).unwrap_or_default();
    let now = Instant::now();
    now.checked_add(left).unwrap_or(now)
}
