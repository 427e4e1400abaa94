//! The claims of a token to sign.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Header, encode};
use serde_json::{Value, json};
use thiserror::Error;
use uuid::Uuid;

use super::claims::DETAIL_TYPE;
use super::keys::SigningKey;
use crate::mercure::matcher::{Base, MatcherError, Purpose};
use crate::registry::Matcher;

/// The claims of a token to sign.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    /// Topics that the token may publish to; `*` means all. Without an audience, a topic may be a
    /// URI template.
    pub(crate) publish: Vec<String>,
    /// URL patterns of topics that the token may publish to. Only a token with an audience may have
    /// them.
    pub(crate) publish_urlpattern: Vec<String>,
    /// Topics whose private updates the token may read; `*` means all. Without an audience, a topic
    /// may be a URI template.
    pub(crate) subscribe: Vec<String>,
    /// URL patterns of topics whose private updates the token may read. Only a token with an
    /// audience may have them.
    pub(crate) subscribe_urlpattern: Vec<String>,
    /// How long the token is valid. The default is one hour.
    pub(crate) expires: Duration,
    /// The hub that the token is for (`aud`). A token with an audience is of Mercure's current
    /// generation; a token without an audience is of 0.x.
    pub(crate) audience: Option<String>,
    /// The issuer (`iss`), as a URL. The default is the audience. Current generation only.
    pub(crate) issuer: Option<String>,
    /// The person or program that the token identifies (`sub`). The default is a random name in
    /// the current generation, and none in 0.x.
    pub(crate) subject: Option<String>,
    /// The client program (`client_id`). The default is the issuer. Current generation only.
    pub(crate) client_id: Option<String>,
    /// The name of the key (`kid`), by which a server with a key set finds it. The default is none.
    pub(crate) key_id: Option<String>,
    /// Data that the hub adds to its events about this token's subscriptions, and to the
    /// subscriptions that it lists.
    pub(crate) payload: Option<Value>,
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            publish: Vec::new(),
            publish_urlpattern: Vec::new(),
            subscribe: Vec::new(),
            subscribe_urlpattern: Vec::new(),
            expires: Duration::from_secs(60 * 60),
            audience: None,
            issuer: None,
            subject: None,
            client_id: None,
            key_id: None,
            payload: None,
        }
    }
}

impl SigningKey {
    /// Signs a token with these claims.
    ///
    /// Fails if the claims are such that no server would accept the token.
    pub(crate) fn sign(&self, draft: &Draft) -> Result<String, DraftError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let expires = now + draft.expires;
        let mut header = Header::new(self.algorithm);
        header.kid.clone_from(&draft.key_id);
        let mut claims = if let Some(audience) = &draft.audience {
            header.typ = Some("at+jwt".into());
            let issuer = draft.issuer.as_ref().unwrap_or(audience);
            json!({
                "iss": issuer,
                "aud": audience,
                "sub": Uuid::new_v4().urn().to_string(),
                "client_id": draft.client_id.as_ref().unwrap_or(issuer),
                "iat": now.as_secs(),
                "jti": Uuid::new_v4().urn().to_string(),
                "authorization_details": draft.details(audience)?,
            })
        } else {
            json!({ "mercure": draft.claim()? })
        };
        if let Some(subject) = &draft.subject {
            claims["sub"] = subject.as_str().into();
        }
        claims["exp"] = expires.as_secs().into();
        encode(&header, &claims, &self.key).map_err(|error| DraftError::Signing(error.to_string()))
    }
}

impl Draft {
    /// Returns `authorization_details` of the current generation.
    fn details(&self, audience: &str) -> Result<Vec<Value>, DraftError> {
        let base = Base::new(audience).unwrap_or_default();
        let payload = match &self.payload {
            Some(Value::Object(_)) | None => self.payload.as_ref(),
            Some(_) => return Err(DraftError::Payload),
        };
        let mut details = Vec::new();
        for (action, topics, patterns) in [
            ("publish", &self.publish, &self.publish_urlpattern),
            ("subscribe", &self.subscribe, &self.subscribe_urlpattern),
        ] {
            let mut matchers = Vec::new();
            for topic in topics {
                check(topic, Matcher::exact)?;
                matchers.push(json!({ "match": topic }));
            }
            for pattern in patterns {
                check(pattern, |text| Matcher::url_pattern_for(Purpose::Token, text, &base))?;
                matchers.push(json!({ "match": pattern, "match_type": "urlpattern" }));
            }
            if matchers.is_empty() {
                continue;
            }
            let mut detail =
                json!({ "type": DETAIL_TYPE, "actions": [action], "topics": matchers });
            if let Some(payload) = payload
                && action == "subscribe"
            {
                detail["payload"] = payload.clone();
            }
            details.push(detail);
        }
        if details.is_empty() { Err(DraftError::Nothing) } else { Ok(details) }
    }

    /// Returns the claim `mercure` of 0.x.
    fn claim(&self) -> Result<Value, DraftError> {
        if !self.publish_urlpattern.is_empty() || !self.subscribe_urlpattern.is_empty() {
            return Err(DraftError::Audience);
        }
        let mut claim = json!({});
        for (role, selectors) in [("publish", &self.publish), ("subscribe", &self.subscribe)] {
            selectors.iter().try_for_each(|selector| check(selector, Matcher::selector))?;
            if !selectors.is_empty() {
                claim[role] = selectors.as_slice().into();
            }
        }
        if claim.as_object().is_none_or(serde_json::Map::is_empty) {
            return Err(DraftError::Nothing);
        }
        if let Some(payload) = &self.payload {
            claim["payload"] = payload.clone();
        }
        Ok(claim)
    }
}

fn check(
    text: &str,
    read: impl Fn(&str) -> Result<Matcher, MatcherError>,
) -> Result<(), DraftError> {
    match read(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(DraftError::Topic { topic: text.to_owned(), reason: error.to_string() }),
    }
}

/// A token cannot be signed, or no server would accept it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub(crate) enum DraftError {
    /// The token would allow nothing.
    #[error("the token would allow nothing; add --publish or --subscribe")]
    Nothing,
    /// The token has URL patterns and no audience.
    #[error(
        "URL patterns need a token with an audience; add --audience, or pass a URI template to \
         --publish or --subscribe"
    )]
    Audience,
    /// The payload of a token of the current generation is not an object.
    #[error("the payload of a token with --audience must be a JSON object, such as {{\"a\":1}}")]
    Payload,
    /// A topic or a pattern is malformed.
    #[error("{topic:?}: {reason}")]
    Topic {
        /// The topic or pattern.
        topic: String,
        /// Why the topic or pattern is malformed.
        reason: String,
    },
    /// Signing failed.
    #[error("cannot sign with this key: {0}")]
    Signing(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_that_would_allow_nothing_is_not_signed() {
        let key = SigningKey::new(b"a secret that is long enough for it\n").unwrap();
        assert_eq!(key.sign(&Draft::default()), Err(DraftError::Nothing));
        let draft = Draft {
            subscribe: vec!["https://example.com/books/1".into()],
            audience: Some("https://hub.example.com/.well-known/mercure".into()),
            ..Draft::default()
        };
        let token = key.sign(&draft).unwrap();
        assert!(token.starts_with("ey"), "{token}");
        let older = Draft { publish: vec!["news".into()], ..Draft::default() };
        assert_eq!(key.sign(&older).unwrap().split('.').count(), 3);
    }
}
