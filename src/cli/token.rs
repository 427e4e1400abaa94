//! `token`: the arguments of the command that makes one.

use std::time::Duration;

use clap::{ArgGroup, Args};
use serde_json::Value;
use threadcast::jwt::{Draft, SigningKey, VerifyingKey};

use super::positive;

/// Make a JWT, for the Mercure protocol and for every other route, and print it
///
/// Its bearer may do what it says, for as long as it says, at a server that was started with
/// the key that checks it: `serve --jwt-key-file`. Nothing is asked of a server, and no server
/// needs to run.
///
/// The token is of the protocol's current generation (`at+jwt`) and names the server it is for:
/// --audience is what that server has as --jwt-audience. With --legacy it is of the 0.x one, which
/// names no server and in which topics are URI templates too.
///
/// Examples:
///
///     openssl rand -hex 32 > key
///     hub=https://hub.example.com/.well-known/mercure
///     threadcast token --key-file key --audience $hub --publish '*'
///     threadcast token --key-file key --audience $hub --subscribe-urlpattern '/books/:id' --expires 5m
///     threadcast token --key-file key --legacy --subscribe 'https://example.com/books/{id}'
///
/// Exit codes: 0 it is printed, 2 wrong arguments.
#[derive(Debug, Clone, Args)]
#[command(verbatim_doc_comment)]
#[command(group(ArgGroup::new("generation").required(true).args(["audience", "legacy"])))]
pub(crate) struct MakeToken {
    /// Sign with the key in this file: a private key in PEM (RSA: RS256; EC on P-256:
    /// ES256; Ed25519: `EdDSA`), or else the bytes of a secret, 32 or more (HS256)
    #[arg(long, value_name = "FILE", env = "THREADCAST_KEY_FILE", value_parser = signing_key)]
    key_file: SigningKey,

    /// Let it publish to this topic, which is a channel; `*` is every one. Repeat it for more
    #[arg(long, value_name = "TOPIC")]
    publish: Vec<String>,

    /// Let it publish to the topics of a URL pattern; repeat it for more
    #[arg(long, value_name = "PATTERN")]
    publish_urlpattern: Vec<String>,

    /// Let it read what is private to this topic; `*` is every one. Repeat it for more
    #[arg(long, value_name = "TOPIC")]
    subscribe: Vec<String>,

    /// Let it read what is private to the topics of a URL pattern; repeat it for more
    #[arg(long, value_name = "PATTERN")]
    subscribe_urlpattern: Vec<String>,

    /// How long it is valid
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = positive)]
    expires: Duration,

    /// The server it is for, as that calls itself by --jwt-audience
    #[arg(long, value_name = "URL", value_parser = audience)]
    audience: Option<String>,

    /// Make a token of Mercure 0.x: the claim `mercure`, without an audience
    #[arg(long)]
    legacy: bool,

    /// The URL of who makes it (`iss`); without this the audience
    #[arg(long, value_name = "URL", value_parser = audience, conflicts_with = "legacy")]
    issuer: Option<String>,

    /// The person or program that it is about (`sub`), as ?presence= names it; without this a
    /// random name
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,

    /// The program that it is made for (`client_id`); without this the issuer
    #[arg(long, value_name = "NAME", conflicts_with = "legacy")]
    client_id: Option<String>,

    /// What is told of its bearer's subscriptions to who may follow them; without --legacy a
    /// JSON object
    #[arg(long, value_name = "JSON", value_parser = json)]
    payload: Option<Value>,
}

impl MakeToken {
    /// The key, and what it is to sign.
    pub(crate) fn parts(self) -> (SigningKey, Draft) {
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
            payload: self.payload,
        };
        (self.key_file, draft)
    }
}

fn signing_key(path: &str) -> Result<SigningKey, String> {
    let file = std::fs::read(path).map_err(|error| error.to_string())?;
    SigningKey::new(&file).map_err(|error| error.to_string())
}

/// A key that a server checks tokens with.
pub(super) fn verifying_key(path: &str) -> Result<VerifyingKey, String> {
    let file = std::fs::read(path).map_err(|error| error.to_string())?;
    VerifyingKey::new(&file).map_err(|error| error.to_string())
}

/// How tokens call a server.
pub(super) fn audience(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\<>".contains(&byte));
    match rest {
        Some(rest) if is_plain && !rest.is_empty() && !rest.starts_with('/') => Ok(text.to_owned()),
        _ => Err("it is a URL, as in https://hub.example.com/.well-known/mercure".into()),
    }
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("it is JSON, as in {{\"a\":1}}: {error}"))
}
