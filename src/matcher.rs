//! stand-in
use std::sync::Arc;
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Matcher {
    Any,
    Exact(Arc<str>),
}
#[derive(Debug)]
pub(crate) struct MatcherError;
impl std::fmt::Display for MatcherError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no")
    }
}
impl Matcher {
    pub(crate) fn exact(t: &str) -> Result<Self, MatcherError> {
        Ok(if t == "*" { Self::Any } else { Self::Exact(t.into()) })
    }
    pub(crate) fn selector(t: &str) -> Result<Self, MatcherError> {
        Self::exact(t)
    }
    pub(crate) fn url_pattern(t: &str) -> Result<Self, MatcherError> {
        Self::exact(t)
    }
    pub(crate) fn matches(&self, topic: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(t) => &**t == topic,
        }
    }
}
