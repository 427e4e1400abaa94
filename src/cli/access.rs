//! `serve`: who may do what, as the command line says it.

use std::net::Ipv6Addr;

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

    /// Let pages of this origin read, with credentials, and publish; repeat it for more.
    /// `https://*.example.com` is every subdomain, `*` lets every page read, without credentials
    #[arg(long, value_name = "URL", env = "THREADCAST_CORS_ORIGIN", value_delimiter = ',')]
    #[arg(value_parser = origin)]
    cors_origin: Vec<String>,

    /// Let pages of other origins send this header too, such as traceparent; repeat it for more
    #[arg(long, value_name = "NAME", env = "THREADCAST_CORS_HEADER", value_delimiter = ',')]
    #[arg(value_parser = header_name)]
    cors_header: Vec<String>,
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
            cors_headers: self.cors_header,
            ..config
        }
    }
}

/// A token from the first line of a file, so that it is on no command line.
pub(super) fn token_file(path: &str) -> Result<Token, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    Token::new(text.lines().next().unwrap_or_default().trim()).map_err(|error| error.to_string())
}

/// An origin as browsers write it: scheme, host, and the port if it is not the scheme's own.
fn origin(text: &str) -> Result<String, String> {
    if text == "*" {
        return Ok(text.to_owned());
    }
    let origin = text.to_ascii_lowercase();
    if origin == "null" {
        return Err("every sandboxed frame and local file sends the origin null, so it identifies \
                    none of them; serve the page from a host and name that, or let every page read with *"
            .into());
    }
    let parts = origin.split_once("://").filter(|(scheme, host)| {
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        is_scheme && is_host(host.strip_prefix("*.").unwrap_or(host))
    });
    let Some((scheme, host)) = parts else {
        return Err(
            "an origin is written https://host, https://host:port or https://*.host, with \
                    any scheme and without a path"
                .into(),
        );
    };
    let port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return Ok(origin),
    };
    // Browsers leave it out.
    Ok(format!("{scheme}://{}", host.strip_suffix(port).unwrap_or(host)))
}

/// A host, and a port if there is one.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inside, port)) if inside.parse::<Ipv6Addr>().is_ok() => ("v6", port),
        _ => text.find(':').map_or((text, ""), |colon| text.split_at(colon)),
    };
    let is_port = port.is_empty()
        || port.strip_prefix(':').is_some_and(|digits| digits.parse::<u16>().is_ok());
    let is_of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    is_port && host.split('.').all(|label| !label.is_empty() && label.bytes().all(is_of_a_name))
}

/// A header's name (RFC 9110 §5.6.2). `*` is one too, and would mean any: it must be named.
fn header_name(text: &str) -> Result<String, String> {
    let is_of_a_token =
        |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'+-.^_`|~".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_of_a_token) {
        return Ok(text.to_owned());
    }
    Err("a header's name is letters, digits and hyphens, such as traceparent or \
         x-requested-with; give each name by itself"
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_any_scheme_and_host() {
        for (text, expected) in [
            ("*", "*"),
            ("https://a.example", "https://a.example"),
            ("HTTPS://A.example:443", "https://a.example"),
            ("http://a.example:443", "http://a.example:443"),
            ("http://[::1]:80", "http://[::1]"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("chrome-extension://abc", "chrome-extension://abc"),
            ("https://*.a.example:8443", "https://*.a.example:8443"),
        ] {
            assert_eq!(origin(text).as_deref(), Ok(expected), "{text}");
        }
        for bad in [
            "",
            "null",
            "NULL",
            "a.example",
            "https://",
            "https://a/",
            "https://a/b",
            "://a",
            "1a://b",
            "https://*",
            "https://*.",
            "https://a.*.b",
            "https://*a.b",
            "https://u@a",
            "https://a:x",
            "https://a:65536",
            "https://a b",
            "https://*.*.a",
            "file:///",
        ] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }
}
