//! URL patterns as the WHATWG has them, without their captured groups.

use std::sync::LazyLock;

use url::Url;
use urlpattern::matcher::{InnerMatcher, Matcher};
use urlpattern::regexp::RegExp;
use urlpattern::{RegexSyntax, UrlPatternInit, UrlPatternOptions};

use super::MatcherError;
use super::engine::{Engine, Refused};

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
        // Only what is relative has a base: the path of `urn:x` is not below that of the hub.
        let parse = UrlPatternInit::parse_constructor_string::<Source>;
        let init = match parse(text, None) {
            Err(urlpattern::Error::BaseUrlRequired) => parse(text, Some(BASE.clone())),
            init => init,
        };
        let parse = |init| urlpattern::UrlPattern::parse(init, UrlPatternOptions::default());
        let pattern = init.and_then(parse).map_err(|error| refused(&error.to_string()))?;
        let parts = [
            pattern.protocol,
            pattern.username,
            pattern.password,
            pattern.hostname,
            pattern.port,
            pattern.pathname,
            pattern.search,
            pattern.hash,
        ];
        let parts: Result<Vec<_>, _> =
            parts.into_iter().map(|part| compiled(part.matcher)).collect();
        let parts: Box<[_; 8]> = parts?.try_into().map_err(|_| refused("it has eight parts"))?;
        Ok(Self(parts))
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

fn compiled(matcher: Matcher<Source>) -> Result<Matcher<Engine>, MatcherError> {
    let Matcher { prefix, suffix, inner, ignore_case } = matcher;
    let inner = match inner {
        InnerMatcher::Literal { literal } => InnerMatcher::Literal { literal },
        InnerMatcher::SingleCapture { filter, allow_empty } => {
            InnerMatcher::SingleCapture { filter, allow_empty }
        }
        InnerMatcher::RegExp { regexp } => {
            let Source(regexp) = regexp.map_err(|error| refused(&error.to_string()))?;
            let regexp = Engine::new(&regexp).map_err(|error| match error {
                Refused::Invalid => refused("a group is no regular expression, or nests too deep"),
                Refused::TooBig => MatcherError::TooBig,
            })?;
            InnerMatcher::RegExp { regexp: Ok(regexp) }
        }
    };
    Ok(Matcher { prefix, suffix, inner, ignore_case })
}

fn refused(detail: &str) -> MatcherError {
    MatcherError::Pattern { detail: detail.into() }
}

/// A regular expression that is not compiled yet: the crate has each of them twice, and
/// of the one we need it takes the fixed text off its ends first.
#[derive(Debug)]
struct Source(String);

impl RegExp for Source {
    fn syntax() -> RegexSyntax {
        RegexSyntax::Rust
    }

    fn parse(pattern: &str, _flags: &str, _force_eval: bool) -> Result<Self, ()> {
        Ok(Self(pattern.to_owned()))
    }

    /// Asked of a scheme, to find out what kind of path comes.
    fn matches<'a>(&self, text: &'a str) -> Option<Vec<Option<&'a str>>> {
        Engine::new(&self.0).ok().filter(|engine| engine.matches(text)).map(|_| Vec::new())
    }

    fn pattern_string(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests;
