//! The arguments of `token`.

use std::time::Duration;

use clap::{ArgGroup, Args};
use serde_json::Value;
use threadcast::jwt::{Draft, SigningKey, VerifyingKey};

use super::values::positive;

/// The help of the command. It is no doc comment, because rustdoc would compile the examples as Rust.
const HELP: &str = "\
Create a JWT for the Mercure protocol and for all other routes, and print it

The token is valid at a server that verifies it with the matching key: see
`serve --jwt-key-file`. This command contacts no server.

With --audience, creates a token of the current Mercure protocol (`at+jwt`). The token names its
server: pass the URL that was given to the server as --jwt-audience. With --legacy, creates a
token of Mercure 0.x, which names no server and in which topics may also be URI templates.

Examples:

    openssl rand -hex 32 > key
    hub=https://hub.example.com/.well-known/mercure
    threadcast token --key-file key --audience $hub --publish '*'
    threadcast token --key-file key --audience $hub --subscribe-urlpattern '/books/:id' --expires 5m
    threadcast token --key-file key --legacy --subscribe 'https://example.com/books/{id}'

Exit codes: 0 token printed, 2 invalid arguments.";

/// Create a JWT for the Mercure protocol and for all other routes, and print it
#[derive(Debug, Clone, Args)]
#[command(long_about = HELP)]
#[command(group(ArgGroup::new("generation").required(true).args(["audience", "legacy"])))]
pub(crate) struct TokenArgs {
    /// Sign with the key in this file
    ///
    /// The file contains a private key in PEM format (RSA: RS256; EC on P-256: ES256; Ed25519:
    /// `EdDSA`), or a secret of at least 32 bytes (HS256).
    #[arg(long, value_name = "FILE", env = "THREADCAST_KEY_FILE", value_parser = signing_key)]
    key_file: SigningKey,

    /// Permit publishing to this topic (a channel); `*` means all topics. Repeat for more
    #[arg(long, value_name = "TOPIC")]
    publish: Vec<String>,

    /// Permit publishing to the topics that match this URL pattern; repeat for more
    #[arg(long, value_name = "PATTERN")]
    publish_urlpattern: Vec<String>,

    /// Permit reading private updates of this topic; `*` means all topics. Repeat for more
    #[arg(long, value_name = "TOPIC")]
    subscribe: Vec<String>,

    /// Permit reading private updates of the topics that match this URL pattern; repeat for more
    #[arg(long, value_name = "PATTERN")]
    subscribe_urlpattern: Vec<String>,

    /// Set how long the token is valid
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = positive)]
    expires: Duration,

    /// Set the audience (`aud`): the URL that was given to the server as --jwt-audience
    #[arg(long, value_name = "URL", value_parser = audience)]
    audience: Option<String>,

    /// Create a token of Mercure 0.x: with the claim `mercure`, without an audience
    #[arg(long)]
    legacy: bool,

    /// Set the issuer (`iss`) [default: the audience]
    #[arg(long, value_name = "URL", value_parser = audience, conflicts_with = "legacy")]
    issuer: Option<String>,

    /// Set the subject (`sub`): the user or program; it may use this name in ?presence= [default: a
    /// random name]
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,

    /// Set the client (`client_id`): the program that uses the token [default: the issuer]
    #[arg(long, value_name = "NAME", conflicts_with = "legacy")]
    client_id: Option<String>,

    /// Name the key (`kid`), so that a server with --jwks finds it
    #[arg(long, value_name = "KID")]
    key_id: Option<String>,

    /// Add this payload to the updates about the subscriber's subscriptions; it must be a JSON
    /// object, but with --legacy it may be any JSON value
    #[arg(long, value_name = "JSON", value_parser = json)]
    payload: Option<Value>,
}

impl TokenArgs {
    /// Returns the key, and the claims to sign with it.
    pub(crate) fn into_parts(self) -> (SigningKey, Draft) {
        let draft = Draft {
            publish: self.publish,
            publish_urlpattern: self.publish_urlpattern,
            subscribe: self.subscribe,
            subscribe_urlpattern: self.subscribe_urlpattern,
            expires: self.expires,
            audience: self.audience,
            issuer: self.issuer,
            subject: self.subject,
            client_id: self.client_id,
            key_id: self.key_id,
            payload: self.payload,
        };
        (self.key_file, draft)
    }
}

fn signing_key(path: &str) -> Result<SigningKey, String> {
    let file = std::fs::read(path).map_err(|error| error.to_string())?;
    SigningKey::new(&file).map_err(|error| error.to_string())
}

/// Reads a key for verifying tokens.
pub(super) fn verifying_key(path: &str) -> Result<VerifyingKey, String> {
    let file = std::fs::read(path).map_err(|error| error.to_string())?;
    VerifyingKey::new(&file).map_err(|error| error.to_string())
}

/// Parses an absolute http or https URL.
pub(super) fn audience(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\<>".contains(&byte));
    match rest {
        Some(rest) if is_plain && !rest.is_empty() && !rest.starts_with('/') => Ok(text.to_owned()),
        _ => Err("expected a URL, such as https://hub.example.com/.well-known/mercure".into()),
    }
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text)
        .map_err(|error| format!("expected JSON, such as {{\"a\":1}}: {error}"))
}
