//! `serve`: who may do what, as the command line says it.

use clap::Args;
use clap::builder::BoolishValueParser;
use threadcast::jwt::VerifyingKey;
use threadcast::{Config, CorsOrigins, Mercure, Token};

use super::token::{audience, verifying_key};

/// The tokens, the keys and the origins.
#[derive(Debug, Clone, Args)]
pub(super) struct Access {
    /// Let only those publish who send this as a bearer token (without it, only
    /// this machine may)
    #[arg(long, value_name = "TOKEN", env = "THREADCAST_PUBLISH_TOKEN", hide_env_values = true)]
    publish_token: Option<Token>,

    /// The same, read from the first line of a file
    #[arg(long, value_name = "FILE", env = "THREADCAST_PUBLISH_TOKEN_FILE")]
    #[arg(conflicts_with = "publish_token", value_parser = token_file)]
    publish_token_file: Option<Token>,

    /// Let only those read who send this as a bearer token, or got the cookie for
    /// it from POST /session (without it, anybody may)
    #[arg(long, value_name = "TOKEN", env = "THREADCAST_SUBSCRIBE_TOKEN", hide_env_values = true)]
    subscribe_token: Option<Token>,

    /// The same, read from the first line of a file
    #[arg(long, value_name = "FILE", env = "THREADCAST_SUBSCRIBE_TOKEN_FILE")]
    #[arg(conflicts_with = "subscribe_token", value_parser = token_file)]
    subscribe_token_file: Option<Token>,

    /// Speak the Mercure protocol on /.well-known/mercure: its topics are the channels
    #[arg(long, env = "THREADCAST_MERCURE", value_parser = BoolishValueParser::new())]
    mercure: bool,

    /// Tell of Mercure's subscriptions, by private updates and by its API; each costs a
    /// channel
    #[arg(long, env = "THREADCAST_MERCURE_SUBSCRIPTIONS", value_parser = BoolishValueParser::new())]
    mercure_subscriptions: bool,

    /// Take JWTs that this key checks, for reading and publishing, on all routes: a public key
    /// in PEM (RSA, EC on P-256, Ed25519), or else a secret of 32 bytes or more
    #[arg(long, value_name = "FILE", env = "THREADCAST_JWT_KEY_FILE")]
    #[arg(value_parser = verifying_key)]
    jwt_key_file: Option<VerifyingKey>,

    /// The same, for publishing alone (it goes before --jwt-key-file)
    #[arg(long, value_name = "FILE", env = "THREADCAST_PUBLISH_JWT_KEY_FILE")]
    #[arg(value_parser = verifying_key)]
    publish_jwt_key_file: Option<VerifyingKey>,

    /// The same, for reading alone (it goes before --jwt-key-file)
    #[arg(long, value_name = "FILE", env = "THREADCAST_SUBSCRIBE_JWT_KEY_FILE")]
    #[arg(value_parser = verifying_key)]
    subscribe_jwt_key_file: Option<VerifyingKey>,

    /// How JWTs of the current generation (at+jwt) call this server, in `aud`; without it
    /// they are not believed, and those of 0.x alone are
    #[arg(long, value_name = "URL", env = "THREADCAST_JWT_AUDIENCE", value_parser = audience)]
    jwt_audience: Option<String>,

    /// Let who brings no token read what is not private, although there is a token or a key
    /// for reading
    #[arg(long, env = "THREADCAST_ANONYMOUS", value_parser = BoolishValueParser::new())]
    anonymous: bool,

    /// Let pages of this origin read, with credentials, and publish; repeat it for
    /// more. Or `*`: every page may read, without credentials
    #[arg(long, value_name = "URL", env = "THREADCAST_CORS_ORIGIN", value_delimiter = ',')]
    #[arg(value_parser = origin)]
    cors_origin: Vec<String>,
}

impl Access {
    /// What is missing beside what is said. `requires` would take `THREADCAST_MERCURE=no` for
    /// a flag that is there.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.mercure_subscriptions && !self.mercure {
            return Err("--mercure-subscriptions takes --mercure too");
        }
        Ok(())
    }

    /// The configuration with what is said here.
    pub(super) fn apply(self, config: Config) -> Config {
        let cors_origins = match self.cors_origin {
            none if none.is_empty() => CorsOrigins::Own,
            any if any.iter().any(|origin| origin == "*") => CorsOrigins::Any,
            these => CorsOrigins::These(these),
        };
        Config {
            publish_token: self.publish_token.or(self.publish_token_file),
            subscribe_token: self.subscribe_token.or(self.subscribe_token_file),
            publish_key: self.publish_jwt_key_file.or_else(|| self.jwt_key_file.clone()),
            subscribe_key: self.subscribe_jwt_key_file.or(self.jwt_key_file),
            jwt_audience: self.jwt_audience,
            anonymous: self.anonymous,
            mercure: match (self.mercure, self.mercure_subscriptions) {
                (false, _) => Mercure::Off,
                (true, false) => Mercure::On,
                (true, true) => Mercure::WithSubscriptions,
            },
            cors_origins,
            ..config
        }
    }
}

/// A token from the first line of a file, so that it is on no command line.
pub(super) fn token_file(path: &str) -> Result<Token, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    Token::new(text.lines().next().unwrap_or_default().trim()).map_err(|error| error.to_string())
}

/// An origin as browsers write it: scheme, host, and the port if it is not the
/// scheme's own.
fn origin(text: &str) -> Result<String, String> {
    let authority = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match authority {
        _ if text == "*" => Ok(text.to_owned()),
        Some(host) if !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ']) => {
            Ok(text.to_owned())
        }
        _ => Err("an origin is written https://host or https://host:port, without a path".into()),
    }
}
