//! Stands in for `mercure` in a build without the feature, in which no JWT key exists.

pub(crate) mod jwt {
    use std::sync::Arc;
    use std::time::SystemTime;

    use crate::credential::Credential;
    use crate::registry::Matcher;

    /// The key that verifies JWTs. A build without the feature `mercure` has none.
    #[derive(Debug, Clone)]
    pub enum VerifyingKey {}

    impl VerifyingKey {
        pub(crate) fn check(
            &self,
            _token: &[u8],
            _audience: Option<&str>,
        ) -> Result<VerifiedToken, JwtError> {
            match *self {}
        }

        pub(crate) fn keeping(&self, _old: Option<&Self>) -> Self {
            match *self {}
        }

        pub(crate) fn credentials(&self) -> impl Iterator<Item = &Credential> {
            std::iter::empty()
        }
    }

    #[derive(Debug)]
    pub(crate) struct VerifiedToken {
        pub(crate) rights: Rights,
        pub(crate) expires: Option<SystemTime>,
        pub(crate) credential: Credential,
    }

    #[derive(Debug)]
    pub(crate) struct Rights {
        pub(crate) subscribe: Arc<[Matcher]>,
        pub(crate) publish: Arc<[Matcher]>,
        pub(crate) subject: Option<String>,
        pub(crate) is_older: bool,
    }

    /// Connects a server to a thread that fetches keys. A build without the feature `mercure` has
    /// none.
    #[derive(Debug)]
    pub(crate) enum KeyRefresh {}

    impl KeyRefresh {
        pub(crate) fn find<T>(
            &self,
            _look: impl Fn() -> Result<T, JwtError>,
        ) -> Result<T, JwtError> {
            match *self {}
        }
    }

    pub(crate) enum JwtError {
        Full,
        UnknownKey,
        NoKeys,
        Invalid(&'static str),
    }
}

pub(crate) mod matcher {
    #[derive(Debug, PartialEq, Eq, thiserror::Error)]
    pub(crate) enum MatcherError {
        #[error("no memory is left for patterns")]
        Full,
    }
}
