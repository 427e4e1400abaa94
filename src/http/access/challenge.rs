//! Creates the error responses to requests whose token is missing, invalid or insufficient (RFC
//! 6750 §3).

use crate::http::config::Config;
use crate::http::error::HttpError;

/// The response header that says which token the request needs.
const CHALLENGE: &str = "WWW-Authenticate";

/// Returns the 401 for a request that needs a token but has none.
pub(super) fn missing(config: &Config) -> HttpError {
    let error = HttpError::new(401, "this request needs a token; send Authorization: Bearer TOKEN");
    error.with(CHALLENGE, challenge(None, config))
}

/// Returns the 401 for an invalid token.
///
/// Only the log contains `reason`, because in the response the reason would help an attacker to
/// guess a token.
pub(super) fn invalid(reason: &'static str, config: &Config) -> HttpError {
    let error =
        HttpError::new(401, "the token is not valid; ask the operator of this server for one");
    let error = error.logged(reason);
    error.with(CHALLENGE, challenge(Some("invalid_token"), config))
}

/// Returns the 403 for a valid token that does not allow the request.
pub(super) fn insufficient(config: &Config) -> HttpError {
    let error = HttpError::new(403, "the token does not allow this; send one that does");
    let error = error.logged("it gives no right to this topic or action");
    error.with(CHALLENGE, challenge(Some("insufficient_scope"), config))
}

/// Returns the 400 for a request whose token is empty or ambiguous.
pub(super) fn malformed(detail: &'static str) -> HttpError {
    HttpError::new(400, detail).with(CHALLENGE, "Bearer error=\"invalid_request\"")
}

fn challenge(error: Option<&str>, config: &Config) -> String {
    let mut challenge = "Bearer".to_owned();
    let error = error.map(|error| format!("error=\"{error}\""));
    let metadata = config.metadata_url().map(|url| format!("resource_metadata=\"{url}\""));
    for (index, parameter) in error.into_iter().chain(metadata).enumerate() {
        challenge.push_str(if index == 0 { " " } else { ", " });
        challenge.push_str(&parameter);
    }
    challenge
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::config::Mercure;

    #[test]
    fn challenge_names_the_resource_metadata() {
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
