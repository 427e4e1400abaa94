//! Finds the token of a request (RFC 6750 §2, and cookies), and creates the error responses to
//! requests whose token is missing, invalid or insufficient (RFC 6750 §3).
//!
//! [`token`] searches the header, the query and the cookie in this order, and returns the first
//! token that it finds. The query and Mercure's cookies are searched only on Mercure's paths. Other
//! paths ignore a token in the query, because a token in a URL ends up in logs.

use percent_encoding::percent_decode;

use crate::http::config::Config;
use crate::http::error::HttpError;
use crate::http::request::Request;

/// The name of the session cookie. Its value is the token for reading, percent-encoded.
pub(in crate::http) const SESSION: &str = "threadcast_token";

/// The name of the cookie that holds a browser's token in Mercure's current generation.
pub(in crate::http) const COOKIE: &str = "__Secure-mercure_access_token";

/// The names of the cookie that holds a browser's token, in both generations of Mercure. The first
/// of these cookies that is present is used.
const COOKIES: [&str; 2] = [COOKIE, "mercureAuthorization"];

/// The query parameter that holds a token, in Mercure 0.x only.
///
/// The current generation has no such parameter, because RFC 9700 §2.4 forbids tokens in URLs. The
/// parameter `access_token` is ignored.
const PARAMETER: &str = "authorization";

/// The API that a request uses. The API determines which parts of the request may carry a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Api {
    /// The server's own routes.
    Own,
    /// The routes of the Mercure protocol.
    Mercure,
}

/// A token that is not verified yet, and the part of the request that carried it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) token: Vec<u8>,
    pub(super) carrier: Carrier,
}

/// The part of a request that carried the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carrier {
    Header,
    Query,
    /// A cookie. Browsers send it with requests of any page.
    Cookie,
}

/// Returns the token of this request, if there is one.
///
/// Fails if the token is empty or ambiguous.
pub(super) fn token(request: &Request, api: Api) -> Result<Option<Credentials>, HttpError> {
    let mut bearers = request.headers("authorization").filter_map(bearer);
    if let Some(token) = bearers.next() {
        if bearers.next().is_some() {
            return Err(malformed("there are several Authorization headers; send one"));
        }
        if token.is_empty() && api == Api::Own {
            return Ok(None); // an empty token counts as no token
        }
        return some(token.to_vec(), Carrier::Header);
    }
    if api == Api::Mercure {
        let mut queries = request.queries(PARAMETER).into_iter();
        if let Some(token) = queries.next() {
            if queries.next().is_some() {
                return Err(malformed("the query has several tokens; send one"));
            }
            return some(token.into_bytes(), Carrier::Query);
        }
    }
    Ok(match api {
        Api::Own => session(request),
        Api::Mercure => from_cookie(COOKIES.iter().find_map(|name| cookie(request, name))),
    })
}

/// Returns the token in the request's session cookie.
pub(super) fn session(request: &Request) -> Option<Credentials> {
    from_cookie(session_cookie(request))
}

/// Returns the value of the request's session cookie.
pub(crate) fn session_cookie(request: &Request) -> Option<Vec<u8>> {
    cookie(request, SESSION)
}

/// Returns the decoded value of the request's cookie with the name `wanted`.
fn cookie(request: &Request, wanted: &str) -> Option<Vec<u8>> {
    let mut cookies = request.headers("cookie").flat_map(|list| list.split(|byte| *byte == b';'));
    let value = cookies.find_map(|pair| {
        let (name, value) = pair.trim_ascii().split_at_checked(wanted.len())?;
        (name == wanted.as_bytes()).then(|| value.strip_prefix(b"=")).flatten()
    });
    value.map(|value| percent_decode(value).collect())
}

/// Returns a cookie's token as credentials.
///
/// An empty cookie counts as no token, because the server deletes a cookie by setting it to empty.
fn from_cookie(token: Option<Vec<u8>>) -> Option<Credentials> {
    let token = token.filter(|token| !token.is_empty());
    token.map(|token| Credentials { token, carrier: Carrier::Cookie })
}

fn some(token: Vec<u8>, carrier: Carrier) -> Result<Option<Credentials>, HttpError> {
    if token.is_empty() {
        return Err(malformed("the token is empty; send Authorization: Bearer TOKEN"));
    }
    Ok(Some(Credentials { token, carrier }))
}

/// Returns the token after `Bearer`. Other schemes are ignored, because they may be meant for a
/// proxy.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(6)?;
    let is_bearer = scheme.eq_ignore_ascii_case(b"bearer") && matches!(token, [] | [b' ', ..]);
    is_bearer.then(|| token.trim_ascii())
}

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
fn malformed(detail: &'static str) -> HttpError {
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

    fn request(target: &str, headers: &str) -> Box<Request> {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
        Request::parse(head.as_bytes()).unwrap().unwrap().0
    }

    #[track_caller]
    fn check(api: Api, target: &str, headers: &str, expected: Option<(&str, Carrier)>) {
        let found = token(&request(target, headers), api).unwrap();
        let expected =
            expected.map(|(token, carrier)| Credentials { token: token.into(), carrier });
        assert_eq!(found, expected, "{target} {headers}");
    }

    const HEADER: &str = "Authorization: bEARER h\r\n";
    const BOTH: &str = "Cookie: threadcast_token=o; mercureAuthorization=c\r\n";

    #[test]
    fn header_wins_over_query_and_query_over_cookie() {
        for (api, target, headers, expected) in [
            (Api::Own, "/", "", None),
            (Api::Own, "/?access_token=q", "", None),
            (Api::Own, "/", BOTH, Some(("o", Carrier::Cookie))),
            (Api::Own, "/", "Authorization: Basic eA==\r\n", None),
            (Api::Own, "/", "Authorization: Bearerx y\r\n", None),
            (Api::Mercure, "/?access_token=q", "", None),
            (Api::Mercure, "/?access_token=q", BOTH, Some(("c", Carrier::Cookie))),
            (Api::Mercure, "/?authorization=q", BOTH, Some(("q", Carrier::Query))),
            (Api::Mercure, "/?authorization=q", "", Some(("q", Carrier::Query))),
            (Api::Mercure, "/", BOTH, Some(("c", Carrier::Cookie))),
            (
                Api::Mercure,
                "/",
                "Cookie: __Secure-mercure_access_token=s\r\n",
                Some(("s", Carrier::Cookie)),
            ),
        ] {
            check(api, target, headers, expected);
        }
        let all = format!("{HEADER}{BOTH}");
        check(Api::Mercure, "/?access_token=q&authorization=q", &all, Some(("h", Carrier::Header)));
        check(Api::Own, "/", &all, Some(("h", Carrier::Header)));
    }

    #[test]
    fn empty_or_ambiguous_token_is_rejected() {
        for (target, headers) in [
            ("/", "Authorization: Bearer\r\n"),
            ("/", "Authorization: Bearer \r\n"),
            ("/", "Authorization: Bearer a\r\nAuthorization: Bearer a\r\n"),
            ("/?authorization=a&authorization=a", ""),
            ("/?authorization=", ""),
        ] {
            let error = token(&request(target, headers), Api::Mercure).unwrap_err();
            assert_eq!(error.status(), 400, "{target} {headers}");
        }
    }

    #[test]
    fn session_token_is_found_among_other_cookies() {
        for (cookie, expected) in [
            ("threadcast_token=a%2Db", Some(&b"a-b"[..])),
            ("x=1; threadcast_token=a; y=2", Some(b"a")),
            ("threadcast_tokens=a", None),
            ("x=threadcast_token=a", None),
            ("", None),
        ] {
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n");
            let (request, _) = Request::parse(head.as_bytes()).unwrap().unwrap();
            assert_eq!(session_cookie(&request).as_deref(), expected, "{cookie}");
        }
    }

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
