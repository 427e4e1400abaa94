//! The tokens and keys that requests are checked with. A reload replaces them.

use std::sync::{Arc, PoisonError, RwLock};

use super::config::Config;
use crate::credential::Credential;
use crate::mercure::jwt::VerifyingKey;
use crate::token::Token;

/// The tokens and keys of a running server, for
/// [`Handle::replace_keys`](crate::Handle::replace_keys).
///
/// The fields are those of [`Config`].
#[derive(Debug, Clone, Default)]
pub struct AccessKeys {
    /// Token that allows publishing.
    pub publish_token: Option<Token>,
    /// Token that reads require.
    pub subscribe_token: Option<Token>,
    /// Key that verifies the JWTs of publishers.
    pub publish_key: Option<VerifyingKey>,
    /// Key that verifies the JWTs of subscribers.
    pub subscribe_key: Option<VerifyingKey>,
}

impl AccessKeys {
    /// Takes the tokens and keys out of a configuration.
    pub(crate) fn take(config: &mut Config) -> Self {
        Self {
            publish_token: config.publish_token.take(),
            subscribe_token: config.subscribe_token.take(),
            publish_key: config.publish_key.take(),
            subscribe_key: config.subscribe_key.take(),
        }
    }
}

/// Holds the tokens and keys in use. The lock is held only to read or to replace one pointer.
#[derive(Debug)]
pub(super) struct Keyring(RwLock<Arc<Roles>>);

/// The tokens and keys of both roles.
#[derive(Debug, Default)]
pub(super) struct Roles {
    pub(super) publish: RoleKeys,
    pub(super) subscribe: RoleKeys,
}

/// The static token and the JWT key of one role: publishing or reading.
#[derive(Debug, Default)]
pub(super) struct RoleKeys {
    pub(super) token: Option<(Token, Credential)>,
    pub(super) key: Option<VerifyingKey>,
}

impl Keyring {
    pub(super) fn new(keys: AccessKeys) -> Self {
        Self(RwLock::new(Arc::new(Roles::of(keys, &Roles::default()))))
    }

    /// Returns the tokens and keys in use.
    pub(super) fn current(&self) -> Arc<Roles> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the tokens and keys, and withdraws the old ones that are not among the new ones.
    ///
    /// Returns whether any was withdrawn. The caller must then end the streams that were opened
    /// with them.
    pub(super) fn replace(&self, keys: AccessKeys) -> bool {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let new = Arc::new(Roles::of(keys, &current));
        let old = std::mem::replace(&mut *current, Arc::clone(&new));
        drop(current);
        let kept: Vec<&Credential> = new.credentials().collect();
        let mut withdrawn =
            old.credentials().filter(|old| !kept.iter().any(|kept| kept.is(old))).peekable();
        let any = withdrawn.peek().is_some();
        withdrawn.for_each(Credential::withdraw);
        any
    }
}

impl Roles {
    /// Returns these tokens and keys. Those that are also in `old` keep their credentials.
    fn of(keys: AccessKeys, old: &Self) -> Self {
        Self {
            publish: RoleKeys::of(keys.publish_token, keys.publish_key, &old.publish),
            subscribe: RoleKeys::of(keys.subscribe_token, keys.subscribe_key, &old.subscribe),
        }
    }

    fn credentials(&self) -> impl Iterator<Item = &Credential> {
        self.publish.credentials().chain(self.subscribe.credentials())
    }
}

impl RoleKeys {
    fn of(token: Option<Token>, key: Option<VerifyingKey>, old: &Self) -> Self {
        let token = token.map(|token| {
            let kept = old.token.as_ref().filter(|(old, _)| *old == token);
            let credential = kept.map(|(_, credential)| credential.clone());
            (token, credential.unwrap_or_default())
        });
        Self { token, key: key.map(|key| key.keeping(old.key.as_ref())) }
    }

    /// Returns whether the role has neither a token nor a key.
    pub(super) fn is_empty(&self) -> bool {
        self.token.is_none() && self.key.is_none()
    }

    fn credentials(&self) -> impl Iterator<Item = &Credential> {
        let of_token = self.token.as_ref().map(|(_, credential)| credential);
        of_token.into_iter().chain(self.key.iter().flat_map(VerifyingKey::credentials))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(publish: &str, subscribe: &str) -> AccessKeys {
        let token = |text: &str| Some(Token::new(text).unwrap());
        AccessKeys {
            publish_token: token(publish),
            subscribe_token: token(subscribe),
            ..AccessKeys::default()
        }
    }

    #[test]
    fn replacing_withdraws_only_what_has_changed() {
        let keyring = Keyring::new(tokens("p", "s"));
        let old = keyring.current();
        let is_withdrawn = |role: &RoleKeys| role.token.as_ref().unwrap().1.is_withdrawn();
        assert!(!keyring.replace(tokens("p", "s")));
        assert!(!is_withdrawn(&old.publish) && !is_withdrawn(&old.subscribe));
        assert!(keyring.replace(tokens("p", "other")));
        assert!(!is_withdrawn(&old.publish) && is_withdrawn(&old.subscribe));
        // A token that moves to the other role is withdrawn from its first role.
        assert!(keyring.replace(tokens("other", "p")));
        assert!(is_withdrawn(&old.publish) && !is_withdrawn(&keyring.current().publish));
    }
}
