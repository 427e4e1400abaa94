//! Computes the permissions of a request once, from its token.
//!
//! A token is static or a JWT. A static token is for one role, reading or publishing, and grants
//! everything in that role. A JWT lists what it grants. If the server has no token or key for
//! reading, every client may read. If the server has no token or key for publishing, only local
//! requests may publish.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::credentials::{self, Api, Carrier, Credentials, insufficient, invalid, missing};
use super::local::{is_foreign, origin_of};
use crate::credential::Credential;
use crate::http::config::Config;
use crate::http::error::HttpError;
use crate::http::exchange::Exchange;
use crate::http::forwarded;
use crate::http::keyring::{RoleKeys, Roles};
use crate::http::mercure::reserved::is_reserved;
use crate::mercure::jwt::{JwtError, Rights, VerifiedToken};
use crate::mercure::matcher::MatcherError;
use crate::registry::{Matcher, Readable};

impl Exchange<'_> {
    /// Fails unless this request may read the server's channels and status.
    ///
    /// Every request may, unless the server has a token or key for reading.
    ///
    /// # Errors
    ///
    /// The error is the response to return: 401 or 403.
    pub fn check_read(&self) -> Result<(), HttpError> {
        ReadAccess::of(self, Api::Own).map(drop)
    }

    /// Fails unless this request may publish to each of these channels.
    ///
    /// Without channels, it fails unless the request may publish to some channel. A handler that
    /// changes what other clients see must call this function, also for a GET, because a page of
    /// another origin can send one.
    ///
    /// # Errors
    ///
    /// The error is the response to return: 401 or 403, or 400 for a name that is reserved.
    pub fn check_publish(&self, channels: &[&str]) -> Result<(), HttpError> {
        let access = PublishAccess::of(self, Api::Own)?;
        access.check_any(self)?;
        access.check(self, channels.iter().copied())
    }
}

/// What a request may read.
#[derive(Debug, Default)]
pub(in crate::http) struct ReadAccess {
    scope: ReadScope,
    /// When the token expires. The server then ends the streams that were opened with it.
    pub(in crate::http) until: Option<Instant>,
    /// The token or key that permits the reads. If it is withdrawn, the server ends the streams that
    /// were opened with it.
    pub(in crate::http) credential: Option<Credential>,
    /// Whether the token was in the URL. If it was, no shared cache may store the response.
    pub(in crate::http) token_in_url: bool,
}

/// Which private updates a request may read.
#[derive(Debug, Default)]
enum ReadScope {
    #[default]
    None,
    These(Box<Rights>),
    All,
}

impl ReadAccess {
    /// Computes what this request may read.
    ///
    /// Fails if reading needs a token and the request has none, or if the request has an invalid
    /// token. With `--anonymous`, a request needs no token, but an invalid token is still an error.
    pub(in crate::http) fn of(exchange: &Exchange<'_>, api: Api) -> Result<Self, HttpError> {
        if exchange.server.keyring.current().subscribe.is_empty() {
            return Ok(Self::default());
        }
        Self::with_token(exchange, api)
    }

    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    fn with_token(exchange: &Exchange<'_>, api: Api) -> Result<Self, HttpError> {
        let config = &exchange.server.config;
        // A request can carry two tokens: one for reading in the session cookie, and one for
        // publishing in the header. (A WebSocket handshake is an example.) So for reading, the
        // cookie is tried first.
        if api == Api::Own
            && let Some(session) = credentials::session(&exchange.request)
            && let Ok(reader) = Self::from_credentials(&session, exchange)
        {
            return Ok(reader);
        }
        let Some(credentials) = credentials::token(&exchange.request, api)? else {
            let anonymous = config.anonymous.then(Self::default);
            return anonymous.ok_or_else(|| missing(config));
        };
        Self::from_credentials(&credentials, exchange)
    }

    fn from_credentials(
        credentials: &Credentials,
        exchange: &Exchange<'_>,
    ) -> Result<Self, HttpError> {
        let token_in_url = credentials.carrier == Carrier::Query;
        let (scope, until, credential) = match verify(credentials, exchange, subscribing)? {
            Verified::Token(credential) => (ReadScope::All, None, credential),
            Verified::Jwt(VerifiedToken { rights, expires, credential }) => {
                (ReadScope::These(Box::new(rights)), expires.map(instant), credential)
            }
        };
        Ok(Self { scope, until, credential: Some(credential), token_in_url })
    }

    /// Returns the token in the `Authorization` header, from which a session is created.
    ///
    /// Fails if the header has no token, or if the token is not valid for reading.
    pub(in crate::http) fn bearer_token(exchange: &Exchange<'_>) -> Result<Vec<u8>, HttpError> {
        let config = &exchange.server.config;
        let credentials = credentials::token(&exchange.request, Api::Own)?;
        let credentials = credentials.filter(|it| it.carrier == Carrier::Header);
        let credentials = credentials.ok_or_else(|| missing(config))?;
        verify(&credentials, exchange, subscribing).map(|_| credentials.token)
    }

    /// Returns the updates that the request may read.
    pub(in crate::http) fn readable(&self) -> Readable {
        match &self.scope {
            ReadScope::None => Readable::Public,
            ReadScope::These(rights) => Readable::Matching(Arc::clone(&rights.subscribe)),
            ReadScope::All => Readable::All,
        }
    }

    /// Returns the rights in the request's JWT, if it has one.
    pub(in crate::http) fn rights(&self) -> Option<&Rights> {
        match &self.scope {
            ReadScope::These(rights) => Some(rights),
            ReadScope::None | ReadScope::All => None,
        }
    }

    /// Returns whether the JWT has this subject (`sub`) and may read each of these topics.
    pub(in crate::http) fn is_subject<'a>(
        &self,
        name: &str,
        mut topics: impl Iterator<Item = &'a str>,
    ) -> bool {
        let Some(rights) = self.rights() else { return false };
        rights.subject.as_deref() == Some(name) && topics.all(|topic| any(&rights.subscribe, topic))
    }

    /// Fails unless the request may list every channel.
    ///
    /// With Mercure, updates can be private, so the names of their topics are private too.
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    pub(in crate::http) fn check_all(&self, exchange: &Exchange<'_>) -> Result<(), HttpError> {
        let config = &exchange.server.config;
        let is_open = exchange.server.keyring.current().subscribe.is_empty();
        match &self.scope {
            _ if !config.mercure.is_on() || is_open => Ok(()),
            ReadScope::All => Ok(()),
            ReadScope::These(rights) if rights.subscribe.iter().any(Matcher::is_any) => Ok(()),
            ReadScope::These(_) => Err(insufficient(config)),
            ReadScope::None => Err(missing(config)),
        }
    }

    /// Fails unless the request may read this topic, on a server on which reading needs a token.
    pub(in crate::http) fn check_topic(
        &self,
        exchange: &Exchange<'_>,
        topic: &str,
    ) -> Result<(), HttpError> {
        let is_open = exchange.server.keyring.current().subscribe.is_empty();
        if is_open { Ok(()) } else { self.check_private(exchange, topic) }
    }

    /// Fails unless the request may read private updates of this topic.
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

/// Where a request may publish, and for how long.
#[derive(Debug)]
pub(in crate::http) struct PublishAccess {
    scope: PublishScope,
    /// When the token expires.
    pub(in crate::http) until: Option<Instant>,
    /// The token or key that permits it, if one is needed.
    credential: Option<Credential>,
}

#[derive(Debug)]
enum PublishScope {
    All,
    /// The topics that one of these matchers selects.
    These(Arc<[Matcher]>),
}

/// Returns the number by which `--publish-rate` knows the publisher; `None` without that limit.
pub(in crate::http) fn publisher(exchange: &Exchange<'_>) -> Result<Option<u64>, HttpError> {
    let Exchange { server, request, peer, .. } = exchange;
    let Some(rate) = &server.publish_rate else { return Ok(None) };
    let credentials = credentials::token(request, Api::Own)?;
    let address = forwarded::client(request, peer.ip(), &server.config.trusted_proxies);
    Ok(Some(rate.publisher(credentials.as_ref().map(|it| &*it.token), address)))
}

/// Counts events that a request publishes, or fails with 429 if its publisher has reached
/// `--publish-rate`.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
pub(in crate::http) fn count_published(
    exchange: &Exchange<'_>,
    api: Api,
    events: usize,
) -> Result<(), HttpError> {
    let Exchange { server, request, peer, .. } = exchange;
    let Some(rate) = &server.publish_rate else { return Ok(()) };
    let credentials = credentials::token(request, api)?;
    let address = forwarded::client(request, peer.ip(), &server.config.trusted_proxies);
    rate.count(credentials.as_ref().map(|it| &*it.token), address, events)
}

impl PublishAccess {
    /// Computes where this request may publish.
    ///
    /// Fails for a page of another origin. If the server has a token or key for publishing, the
    /// request needs a valid token; if not, it must be local (see
    /// [`Locality`](super::local::Locality)).
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    pub(in crate::http) fn of(exchange: &Exchange<'_>, api: Api) -> Result<Self, HttpError> {
        let (request, config) = (&exchange.request, &exchange.server.config);
        exchange.locality.check_origin()?;
        if exchange.server.keyring.current().publish.is_empty() {
            exchange.locality.check_local()?;
            return Ok(Self { scope: PublishScope::All, until: None, credential: None });
        }
        // A session cookie allows only reading, so it cannot be used to publish.
        let credentials = credentials::token(request, api)?;
        let credentials =
            credentials.filter(|it| api == Api::Mercure || it.carrier != Carrier::Cookie);
        let credentials = credentials.ok_or_else(|| missing(config))?;
        if credentials.carrier == Carrier::Cookie {
            check_cookie_origin(exchange)?;
        }
        let (scope, until, credential) = match verify(&credentials, exchange, publishing)? {
            Verified::Token(credential) => (PublishScope::All, None, credential),
            Verified::Jwt(VerifiedToken { rights, expires, credential }) => {
                (PublishScope::These(rights.publish), expires.map(instant), credential)
            }
        };
        Ok(Self { scope, until, credential: Some(credential) })
    }

    /// Whether the token or key has been withdrawn since.
    pub(in crate::http) fn is_withdrawn(&self) -> bool {
        self.credential.as_ref().is_some_and(Credential::is_withdrawn)
    }

    /// Fails unless the request may publish to each of these topics. No token may publish to
    /// the hub's reserved topics.
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
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
        let may = |topic: &&str| match &self.scope {
            PublishScope::All => true,
            PublishScope::These(matchers) => any(matchers, topic),
        };
        if topics.iter().all(may) { Ok(()) } else { Err(insufficient(&exchange.server.config)) }
    }

    /// Fails if the request may publish to no topic at all.
    pub(in crate::http) fn check_any(&self, exchange: &Exchange<'_>) -> Result<(), HttpError> {
        match &self.scope {
            PublishScope::These(matchers) if matchers.is_empty() => {
                Err(insufficient(&exchange.server.config))
            }
            _ => Ok(()),
        }
    }
}

/// A token that is valid for a role.
enum Verified {
    /// The static token, which grants everything.
    Token(Credential),
    Jwt(VerifiedToken),
}

fn publishing(roles: &Roles) -> &RoleKeys {
    &roles.publish
}

fn subscribing(roles: &Roles) -> &RoleKeys {
    &roles.subscribe
}

/// When a request should be repeated whose JWT cannot be verified yet.
const KEYS_WAIT: Duration = Duration::from_secs(5);

/// Verifies a token with the keys of a role.
///
/// If the token names an unknown key, the keys are fetched again; `KeyRefresh` limits how often, and
/// how long this call waits.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
fn verify(
    credentials: &Credentials,
    exchange: &Exchange<'_>,
    role: fn(&Roles) -> &RoleKeys,
) -> Result<Verified, HttpError> {
    let Exchange { server, request, .. } = exchange;
    let config = &server.config;
    let check = || role(&server.keyring.current()).check(credentials, config);
    let mut verified = check();
    if let (Err(JwtError::UnknownKey | JwtError::NoKeys), Some(refresh)) =
        (&verified, &server.attached.key_refresh)
    {
        verified = refresh.find(check);
    }
    verified.map_err(|error| match error {
        JwtError::Full => MatcherError::Full.into(),
        JwtError::NoKeys => {
            let detail = "the server cannot verify this token, because it cannot fetch the \
                          issuer's keys; retry later";
            HttpError::later(detail, KEYS_WAIT, request.accepts_event_stream())
        }
        JwtError::UnknownKey => invalid("no key of the key set has its kid", config),
        JwtError::Invalid(reason) => invalid(reason, config),
    })
}

impl RoleKeys {
    /// Verifies a token.
    fn check(&self, credentials: &Credentials, config: &Config) -> Result<Verified, JwtError> {
        if let Some((token, credential)) = &self.token
            && token.is(&credentials.token)
        {
            return Ok(Verified::Token(credential.clone()));
        }
        let Some(key) = &self.key else {
            return Err(JwtError::Invalid("it differs from the server's token"));
        };
        let verified = key.check(&credentials.token, config.jwt_audience.as_deref())?;
        // RFC 9700 §2.4 forbids tokens in URLs; only Mercure 0.x allows them.
        if credentials.carrier == Carrier::Query && !verified.rights.is_older {
            let problem = "it is a token of the current generation in the query";
            return Err(JwtError::Invalid(problem));
        }
        Ok(Verified::Jwt(verified))
    }
}

/// Fails with 403 unless the request names the page that sent it, and that page may publish.
///
/// Browsers send a cookie with the requests of any page, so the cookie does not prove that an
/// allowed page sent the request. In every POST, browsers name the page in `Origin` or `Referer`.
fn check_cookie_origin(exchange: &Exchange<'_>) -> Result<(), HttpError> {
    let (request, config) = (&exchange.request, &exchange.server.config);
    if request.header("origin").is_some() {
        return Ok(()); // `check_origin` has already rejected foreign origins
    }
    let origin = request.text("referer").and_then(origin_of);
    if origin.is_some_and(|page| !is_foreign(request, page) || config.cors_origins.has(page)) {
        return Ok(());
    }
    let detail = "publishing with a cookie needs an Origin or a Referer of this server or of a \
                  --cors-origin; send the token in the Authorization header instead";
    Err(HttpError::new(403, detail))
}

fn any(matchers: &[Matcher], topic: &str) -> bool {
    matchers.iter().any(|matcher| matcher.matches(topic))
}

/// Converts a time of the system clock to the monotonic clock. A past time becomes the current
/// time.
fn instant(expires: SystemTime) -> Instant {
    let left = expires.duration_since(SystemTime::now()).unwrap_or_default();
    let now = Instant::now();
    now.checked_add(left).unwrap_or(now)
}
