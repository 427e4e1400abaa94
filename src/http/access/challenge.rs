//! What is said to a request that has no token, a wrong one, or one that does not
//! reach far enough (RFC 6750 §3).

use crate::http::Config;
use crate::http::error::HttpError;

/// The header that tells a client which token it needs.
const CHALLENGE: &str = "WWW-Authenticate";

/// None was brought, and one is needed.
pub(super) fn missing(config: &Config) -> HttpError {
    let error = HttpError::new(401, "this needs a token; send Authorization: Bearer TOKEN");
    error.with(CHALLENGE, challenge(None, config))
}

/// It is not believed. `reason` is for the log alone: it would help an attacker who guesses.
pub(super) fn invalid(reason: &'static str, config: &Config) -> HttpError {
    let error = HttpError::new(401, "this is not the token; ask who runs the server for it");
    let error = error.logged(reason);
    error.with(CHALLENGE, challenge(Some("invalid_token"), config))
}

/// It is believed, and is for something else.
pub(super) fn insufficient(config: &Config) -> HttpError {
    let error = HttpError::new(403, "the token does not allow this; ask who made it for another");
    let error = error.logged("it gives no right to this topic or action");
    error.with(CHALLENGE, challenge(Some("insufficient_scope"), config))
}

/// It cannot be told which token is meant.
pub(super) fn malformed(detail: &'static str) -> HttpError {
    HttpError::new(400, detail).with(CHALLENGE, "Bearer error=\"invalid_request\"")
}

fn challenge(error: Option<&str>, config: &Config) -> String {
    let mut challenge = "Bearer".to_owned();
    let error = error.map(|error| format!("error=\"{error}\""));
    let metadata = config.metadata_url().map(|url| format!("resource_metadata=\"{url}\""));
    for (place, parameter) in error.into_iter().chain(metadata).enumerate() {
        challenge.push_str(if place == 0 { " " } else { ", " });
        challenge.push_str(&parameter);
    }
    challenge
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Mercure;

    #[test]
    fn a_challenge_says_where_to_read_on() {
        let config = Config {
            mercure: Mercure::On,
            jwt_audience: Some("https://a.example/.well-known/mercure".into()),
            ..Config::default()
        };
        let metadata = "https://a.example/.well-known/oauth-protected-resource/.well-known/mercure";
        assert_eq!(challenge(None, &config), format!("Bearer resource_metadata=\"{metadata}\""));
        let both = format!("Bearer error=\"invalid_token\", resource_metadata=\"{metadata}\"");
        assert_eq!(challenge(Some("invalid_token"), &config), both);
        assert_eq!(challenge(None, &Config { mercure: Mercure::Off, ..config }), "Bearer");
    }
}
