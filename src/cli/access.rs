//! The options of `serve` for tokens, keys and origins.

use std::net::Ipv6Addr;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;
use threadcast::jwt::VerifyingKey;
use threadcast::{AccessKeys, Config, CorsOrigins, Mercure, Token};
use ureq::http::Uri;

use super::token::{audience, verifying_key};
use super::values::{positive, token_file};

/// The options that control access.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Access")]
pub(crate) struct Access {
    /// Require this bearer token to publish
    ///
    /// Without a token or key for publishing, only this machine may publish.
    #[arg(long, value_name = "TOKEN", env = "THREADCAST_PUBLISH_TOKEN", hide_env_values = true)]
    publish_token: Option<Token>,

    /// Read the publish token from the first line of this file
    #[arg(long, value_name = "FILE", env = "THREADCAST_PUBLISH_TOKEN_FILE")]
    #[arg(conflicts_with = "publish_token", value_parser = from_file(token_file))]
    publish_token_file: Option<FromFile<Token>>,

    /// Require this bearer token to read, or the cookie that POST /session sets for the token
    ///
    /// Without a token or key for reading, every client may read.
    #[arg(long, value_name = "TOKEN", env = "THREADCAST_SUBSCRIBE_TOKEN", hide_env_values = true)]
    subscribe_token: Option<Token>,

    /// Read the subscribe token from the first line of this file
    #[arg(long, value_name = "FILE", env = "THREADCAST_SUBSCRIBE_TOKEN_FILE")]
    #[arg(conflicts_with = "subscribe_token", value_parser = from_file(token_file))]
    subscribe_token_file: Option<FromFile<Token>>,

    /// Allow reads of public events without a token
    ///
    /// This has an effect only if a token or key is set for reading.
    #[arg(long, env = "THREADCAST_ANONYMOUS", value_parser = BoolishValueParser::new())]
    anonymous: bool,

    /// Verify JWTs with the key in this file, for reading and publishing on all routes
    ///
    /// The file contains a public key in PEM format (RSA, EC on P-256, or Ed25519), or a secret of
    /// at least 32 bytes.
    #[arg(long, value_name = "FILE", env = "THREADCAST_JWT_KEY_FILE")]
    #[arg(value_parser = from_file(verifying_key))]
    jwt_key_file: Option<FromFile<VerifyingKey>>,

    /// Verify JWTs with the keys of this JSON Web Key Set (RFC 7517), for reading and publishing on
    /// all routes
    ///
    /// A token names its key by `kid`. The server fetches the set of an http or https URL when it
    /// starts, when a token has an unknown `kid` (at most every 10 s), after the time in
    /// Cache-Control, or else every --jwks-refresh. It reads a file at the start and after SIGHUP.
    #[arg(long, value_name = "URL|FILE", env = "THREADCAST_JWKS", value_parser = jwks)]
    #[arg(conflicts_with = "jwt_key_file")]
    jwks: Option<Jwks>,

    /// Fetch the URL of --jwks again after this time, unless its Cache-Control has a max-age
    #[arg(long, value_name = "DURATION", env = "THREADCAST_JWKS_REFRESH", default_value = "10m")]
    #[arg(value_parser = positive)]
    pub(crate) jwks_refresh: Duration,

    /// The last keys that were fetched from the URL of --jwks.
    #[arg(skip)]
    fetched: Option<VerifyingKey>,

    /// Verify JWTs of publishers with this key instead of --jwt-key-file and --jwks
    #[arg(long, value_name = "FILE", env = "THREADCAST_PUBLISH_JWT_KEY_FILE")]
    #[arg(value_parser = from_file(verifying_key))]
    publish_jwt_key_file: Option<FromFile<VerifyingKey>>,

    /// Verify JWTs of subscribers with this key instead of --jwt-key-file and --jwks
    #[arg(long, value_name = "FILE", env = "THREADCAST_SUBSCRIBE_JWT_KEY_FILE")]
    #[arg(value_parser = from_file(verifying_key))]
    subscribe_jwt_key_file: Option<FromFile<VerifyingKey>>,

    /// Accept JWTs of the current Mercure protocol (`at+jwt`) with this URL in `aud`
    ///
    /// Without this option, the server accepts only JWTs of Mercure 0.x.
    #[arg(long, value_name = "URL", env = "THREADCAST_JWT_AUDIENCE", value_parser = audience)]
    jwt_audience: Option<String>,

    /// Serve the Mercure protocol at /.well-known/mercure; its topics are the channels
    #[arg(long, env = "THREADCAST_MERCURE", value_parser = BoolishValueParser::new())]
    mercure: bool,

    /// Publish updates about Mercure subscriptions, and serve the subscription API
    ///
    /// Requires --mercure. The updates are private. Each subscription takes one of the
    /// --max-channels channels until its last event leaves the history.
    #[arg(long, env = "THREADCAST_MERCURE_SUBSCRIPTIONS", value_parser = BoolishValueParser::new())]
    mercure_subscriptions: bool,

    /// Allow pages of this origin to read, with credentials, and to publish; repeat for more
    ///
    /// `https://*.example.com` means every subdomain. `*` allows pages of all origins to read,
    /// without credentials.
    #[arg(long, value_name = "ORIGIN", env = "THREADCAST_CORS_ORIGIN", value_delimiter = ',')]
    #[arg(value_parser = origin)]
    cors_origin: Vec<String>,

    /// Allow pages of other origins to send this request header, such as traceparent; repeat for
    /// more
    #[arg(long, value_name = "NAME", env = "THREADCAST_CORS_HEADER", value_delimiter = ',')]
    #[arg(value_parser = header_name)]
    cors_header: Vec<String>,
}

impl Access {
    /// Checks that --mercure-subscriptions comes with --mercure. clap's `requires` does not
    /// suffice, because it would count `THREADCAST_MERCURE=no` as --mercure.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.mercure_subscriptions && !self.mercure {
            return Err("--mercure-subscriptions requires --mercure; add --mercure");
        }
        Ok(())
    }

    /// Returns the tokens and keys.
    pub(crate) fn keys(&self) -> AccessKeys {
        let of = |file: &Option<FromFile<Token>>| file.as_ref().map(|file| file.value.clone());
        let shared = || match (&self.jwt_key_file, &self.jwks) {
            (Some(file), _) | (None, Some(Jwks::File(file))) => Some(file.value.clone()),
            (None, Some(Jwks::Url(_))) => {
                Some(self.fetched.clone().unwrap_or_else(VerifyingKey::not_fetched))
            }
            (None, None) => None,
        };
        let key = |file: &Option<FromFile<VerifyingKey>>| {
            file.as_ref().map(|file| file.value.clone()).or_else(shared)
        };
        AccessKeys {
            publish_token: self.publish_token.clone().or_else(|| of(&self.publish_token_file)),
            subscribe_token: self
                .subscribe_token
                .clone()
                .or_else(|| of(&self.subscribe_token_file)),
            publish_key: key(&self.publish_jwt_key_file),
            subscribe_key: key(&self.subscribe_jwt_key_file),
        }
    }

    /// Reads the files of tokens and keys again, and returns the errors. A file that cannot be used
    /// keeps its old value.
    pub(crate) fn reread(&mut self) -> Vec<String> {
        let tokens = [&mut self.publish_token_file, &mut self.subscribe_token_file];
        let jwks = match &mut self.jwks {
            Some(Jwks::File(file)) => Some(file),
            Some(Jwks::Url(_)) | None => None,
        };
        let keys = [
            jwks,
            self.jwt_key_file.as_mut(),
            self.publish_jwt_key_file.as_mut(),
            self.subscribe_jwt_key_file.as_mut(),
        ];
        let tokens = tokens.into_iter().flatten().map(FromFile::reread);
        let all = tokens.chain(keys.into_iter().flatten().map(FromFile::reread));
        all.filter_map(Result::err).collect()
    }

    /// Returns the URL from which the keys are fetched, if there is one.
    pub(crate) fn jwks_url(&self) -> Option<&str> {
        match &self.jwks {
            Some(Jwks::Url(url)) => Some(url),
            Some(Jwks::File(_)) | None => None,
        }
    }

    /// Sets the keys that were fetched from the URL.
    pub(crate) fn set_fetched(&mut self, keys: Option<VerifyingKey>) {
        self.fetched = keys;
    }

    /// Returns the keys that were fetched from the URL.
    pub(crate) fn fetched(&self) -> Option<VerifyingKey> {
        self.fetched.clone()
    }

    /// Returns `config` with these options applied.
    pub(super) fn apply(self, config: Config) -> Config {
        let AccessKeys { publish_token, subscribe_token, publish_key, subscribe_key } = self.keys();
        let cors_origins = match self.cors_origin {
            none if none.is_empty() => CorsOrigins::Own,
            any if any.iter().any(|origin| origin == "*") => CorsOrigins::Any,
            these => CorsOrigins::These(these),
        };
        Config {
            publish_token,
            subscribe_token,
            publish_key,
            subscribe_key,
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

/// Where the key set is.
#[derive(Debug, Clone)]
enum Jwks {
    Url(String),
    File(FromFile<VerifyingKey>),
}

/// Parses the argument of `--jwks`. Reads a file.
fn jwks(text: &str) -> Result<Jwks, String> {
    if text.starts_with("http://") || text.starts_with("https://") {
        let url =
            text.parse::<Uri>().ok().filter(|url| url.host().is_some_and(|it| !it.is_empty()));
        url.ok_or("expected a URL such as https://issuer.example/jwks.json")?;
        return Ok(Jwks::Url(text.to_owned()));
    }
    from_file(key_set)(text).map(Jwks::File)
}

fn key_set(path: &str) -> Result<VerifyingKey, String> {
    let file = std::fs::read(path).map_err(|error| error.to_string())?;
    VerifyingKey::from_jwks(&file).map_err(|error| error.to_string())
}

/// What a file contained when it was last read, and its path, from which a reload reads it again.
#[derive(Debug, Clone)]
struct FromFile<T> {
    path: String,
    read: fn(&str) -> Result<T, String>,
    value: T,
}

/// Returns a parser of an option that names a file.
fn from_file<T: Clone + Send + Sync + 'static>(
    read: fn(&str) -> Result<T, String>,
) -> impl Fn(&str) -> Result<FromFile<T>, String> + Clone + Send + Sync + 'static {
    move |path| Ok(FromFile { path: path.to_owned(), read, value: read(path)? })
}

impl<T> FromFile<T> {
    /// Reads the file again. If that fails, the old value stays.
    fn reread(&mut self) -> Result<(), String> {
        let value = (self.read)(&self.path).map_err(|error| format!("{}: {error}", self.path))?;
        self.value = value;
        Ok(())
    }
}

/// Parses an origin as browsers write it: scheme, host, and the port unless it is the default.
fn origin(text: &str) -> Result<String, String> {
    if text == "*" {
        return Ok(text.to_owned());
    }
    let origin = text.to_ascii_lowercase();
    if origin == "null" {
        return Err("every sandboxed frame and local file has the origin null, so it identifies none of \
                    them; serve the page from a host and name its origin, or use * to allow all pages to read"
            .into());
    }
    let parts = origin.split_once("://").filter(|(scheme, host)| {
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        is_scheme && is_host(host.strip_prefix("*.").unwrap_or(host))
    });
    let Some((scheme, host)) = parts else {
        return Err(
            "expected https://HOST, https://HOST:PORT or https://*.HOST, with any scheme and \
                    without a path"
                .into(),
        );
    };
    let port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return Ok(origin),
    };
    // Browsers leave the scheme's default port out of an origin.
    Ok(format!("{scheme}://{}", host.strip_suffix(port).unwrap_or(host)))
}

/// Whether this is a host, optionally with a port.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inside, port)) if inside.parse::<Ipv6Addr>().is_ok() => ("v6", port),
        _ => text.find(':').map_or((text, ""), |colon| text.split_at(colon)),
    };
    let is_port = port.is_empty()
        || port.strip_prefix(':').is_some_and(|digits| digits.parse::<u16>().is_ok());
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    is_port && host.split('.').all(|label| !label.is_empty() && label.bytes().all(is_name_byte))
}

/// Parses a header name (RFC 9110 §5.6.2).
///
/// Rejects `*`, which is a valid name too, because CORS would read it as "any header".
fn header_name(text: &str) -> Result<String, String> {
    let is_token_byte =
        |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'+-.^_`|~".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_token_byte) {
        return Ok(text.to_owned());
    }
    Err("a header name is letters, digits and hyphens, such as traceparent or \
         x-requested-with; write each name in full"
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_may_have_any_scheme_and_host() {
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
