//! URL patterns as the WHATWG has them, without their captured groups.

use std::sync::LazyLock;

use url::Url;
use urlpattern::matcher::{InnerMatcher, Matcher};
use urlpattern::{UrlPatternInit, UrlPatternOptions};

use super::MatcherError;
use super::engine::Engine;

/// What relative topics and patterns are below: the hub. Any host would do, as both
/// are below the same one.
static BASE: LazyLock<Url> =
    LazyLock::new(|| Url::parse("https://localhost/.well-known/mercure").expect("a literal URL"));

/// A topic as a URL; `None` if it is none.
pub(super) fn resolve(topic: &str) -> Option<Url> {
    BASE.join(topic).ok()
}

/// A compiled pattern: protocol, user name, password, host name, port, path, query and
/// fragment.
pub(super) struct UrlPattern(Box<[Matcher<Engine>; 8]>);

impl UrlPattern {
    pub(super) fn new(text: &str) -> Result<Self, MatcherError> {
        let refused = |error: urlpattern::Error| match error {
            urlpattern::Error::RegExp(()) => MatcherError::TooBig,
            other => MatcherError::Pattern { detail: other.to_string() },
        };
        // Only what is relative has a base: the path of `urn:x` is not below that of the hub.
        let parse = UrlPatternInit::parse_constructor_string::<Engine>;
        let init = match parse(text, None) {
            Err(urlpattern::Error::BaseUrlRequired) => parse(text, Some(BASE.clone())),
            init => init,
        };
        let init = init.map_err(refused)?;
        let options = UrlPatternOptions::default();
        let pattern = urlpattern::UrlPattern::<Engine>::parse(init, options).map_err(refused)?;
        let parts = [
            pattern.protocol.matcher,
            pattern.username.matcher,
            pattern.password.matcher,
            pattern.hostname.matcher,
            pattern.port.matcher,
            pattern.pathname.matcher,
            pattern.search.matcher,
            pattern.hash.matcher,
        ];
        for part in &parts {
            if let InnerMatcher::RegExp { regexp: Err(_) } = part.inner {
                return Err(MatcherError::TooBig);
            }
        }
        Ok(Self(Box::new(parts)))
    }

    pub(super) fn matches(&self, url: &Url) -> bool {
        let port = url::quirks::port(url);
        let parts = [
            url.scheme(),
            url.username(),
            url.password().unwrap_or_default(),
            url.host_str().unwrap_or_default(),
            port,
            url.path(),
            url.query().unwrap_or_default(),
            url.fragment().unwrap_or_default(),
        ];
        self.0.iter().zip(parts).all(|(matcher, part)| matcher.matches(part).is_some())
    }
}

#[cfg(test)]
mod tests;
