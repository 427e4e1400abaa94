//! URL patterns (WHATWG URL Pattern), without captured groups.

use std::cell::OnceCell;

use url::Url;
use urlpattern::matcher::{InnerMatcher, Matcher};
use urlpattern::regexp::RegExp;
use urlpattern::{RegexSyntax, UrlPatternInit, UrlPatternOptions};

use super::base::Base;
use super::engine::{Engine, EngineError};
use super::error::MatcherError;

/// A compiled pattern. Its parts are, in this order: protocol, user name, password, host name,
/// port, path, query and fragment.
pub(super) struct UrlPattern {
    parts: [Part; 8],
    base: Base,
}

/// The condition on one part of a URL. Most patterns allow any text in most parts.
enum Part {
    Any,
    Text(Box<str>),
    Pattern(Box<Matcher<Engine>>),
}

impl Part {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Text(only) => **only == *text,
            Self::Pattern(matcher) => matcher.matches(text).is_some(),
        }
    }

    /// The heap memory, in bytes.
    fn bytes(&self) -> usize {
        match self {
            Self::Any => 0,
            Self::Text(text) => text.len(),
            Self::Pattern(matcher) => {
                let engine = match &matcher.inner {
                    InnerMatcher::RegExp { regexp: Ok(engine) } => engine.bytes(),
                    _ => 0,
                };
                size_of_val(&**matcher) + matcher.prefix.len() + matcher.suffix.len() + engine
            }
        }
    }
}

impl UrlPattern {
    pub(super) fn new(text: &str, base: &Base) -> Result<Self, MatcherError> {
        // Only a relative pattern is parsed with the base: `urn:x` must not inherit the hub's path.
        let parse = UrlPatternInit::parse_constructor_string::<Source>;
        let init = match parse(text, None) {
            Err(urlpattern::Error::BaseUrlRequired) => parse(text, Some(base.url().clone())),
            init => init,
        };
        let parse = |init| urlpattern::UrlPattern::parse(init, UrlPatternOptions::default());
        let pattern = init.and_then(parse).map_err(|error| invalid(&error.to_string()))?;
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
        let parts: [Part; 8] =
            parts?.try_into().map_err(|_| invalid("it must have eight parts"))?;
        Ok(Self { parts, base: base.clone() })
    }

    /// The URL against which the pattern, and each topic to match, is resolved if it is relative.
    pub(super) fn base(&self) -> &Base {
        &self.base
    }

    /// The heap memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let parts: usize = self.parts.iter().map(Part::bytes).sum();
        parts + self.base.url().as_str().len()
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
        self.parts.iter().zip(parts).all(|(part, text)| part.matches(text))
    }
}

fn compiled(matcher: Matcher<Source>) -> Result<Part, MatcherError> {
    let Matcher { mut prefix, mut suffix, inner, ignore_case } = matcher;
    let inner = match inner {
        InnerMatcher::Literal { literal } => return Ok(Part::Text(literal.into())),
        InnerMatcher::SingleCapture { filter: None, allow_empty: true }
            if prefix.is_empty() && suffix.is_empty() =>
        {
            return Ok(Part::Any);
        }
        InnerMatcher::SingleCapture { filter, allow_empty } => {
            InnerMatcher::SingleCapture { filter, allow_empty }
        }
        InnerMatcher::RegExp { regexp } => {
            let source = regexp.map_err(|error| invalid(&error.to_string()))?;
            source.engine();
            let regexp = source.engine.into_inner().unwrap_or(Err(EngineError::Invalid));
            let regexp = regexp.map_err(|error| match error {
                EngineError::Invalid => {
                    invalid("a group is not a valid regular expression, or nests too deeply")
                }
                EngineError::TooBig => MatcherError::TooBig,
            })?;
            InnerMatcher::RegExp { regexp: Ok(regexp) }
        }
    };
    prefix.shrink_to_fit();
    suffix.shrink_to_fit();
    Ok(Part::Pattern(Box::new(Matcher { prefix, suffix, inner, ignore_case })))
}

fn invalid(detail: &str) -> MatcherError {
    MatcherError::Pattern { detail: detail.into() }
}

/// A regular expression that is compiled when it is first used, and only once.
///
/// The crate `urlpattern` creates each expression twice and uses only one of the two: the one
/// without the fixed text at its ends.
#[derive(Debug)]
struct Source {
    text: String,
    engine: OnceCell<Result<Engine, EngineError>>,
}

impl Source {
    fn engine(&self) -> &Result<Engine, EngineError> {
        self.engine.get_or_init(|| Engine::new(&self.text))
    }
}

impl RegExp for Source {
    fn syntax() -> RegexSyntax {
        RegexSyntax::Rust
    }

    fn parse(pattern: &str, _flags: &str, _force_eval: bool) -> Result<Self, ()> {
        Ok(Self { text: pattern.to_owned(), engine: OnceCell::new() })
    }

    /// The crate `urlpattern` calls this function with each of the six special schemes, to find out
    /// what kind of path the pattern has.
    fn matches<'a>(&self, text: &'a str) -> Option<Vec<Option<&'a str>>> {
        self.engine().as_ref().ok().filter(|engine| engine.matches(text)).map(|_| Vec::new())
    }

    fn pattern_string(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests;
