//! Finds the token of a request (RFC 6750, and Mercure's cookies).
//!
//! [`token`] searches the header, the query and the cookie in this order, and returns the first
//! token that it finds. The query and Mercure's cookies are searched only on Mercure's paths. Other
//! paths ignore a token in the query, because a token in a URL ends up in logs.

use super::challenge::malformed;
use crate::http::cookie;
use crate::http::error::HttpError;
use crate::http::request::Request;

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
        Api::Mercure => cookie(COOKIES.iter().find_map(|name| cookie::cookie(request, name))),
    })
}

/// Returns the token in the request's session cookie.
pub(super) fn session(request: &Request) -> Option<Credentials> {
    cookie(cookie::session(request))
}

/// Returns a cookie's token as credentials.
///
/// An empty cookie counts as no token, because the server deletes a cookie by setting it to empty.
fn cookie(token: Option<Vec<u8>>) -> Option<Credentials> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(error.status, 400, "{target} {headers}");
        }
    }
}
