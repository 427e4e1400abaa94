//! The token that a request brings, wherever it stands (RFC 6750, and Mercure's cookies).
//!
//! The header goes first, then the query, then a cookie; one of them is looked at, and
//! what stands behind it is not. The query and Mercure's cookies are looked at on
//! Mercure's paths alone: a token in a URL ends up in logs.

use super::challenge::malformed;
use crate::http::error::HttpError;
use crate::http::request::Request;
use crate::http::session;

/// The cookie of a browser's token in the current generation.
pub(in crate::http) const COOKIE: &str = "__Secure-mercure_access_token";

/// The cookies of both generations, in the order in which they are looked for.
const COOKIES: [&str; 2] = [COOKIE, "mercureAuthorization"];

/// The name of the token in a query, in 0.x alone: the current generation has none, because
/// RFC 9700 §2.4 forbids tokens in URLs. `access_token` is ignored.
const PARAMETER: &str = "authorization";

/// Whose rules say where a token may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Api {
    /// The server's own routes.
    Own,
    /// The Mercure protocol's.
    Mercure,
}

/// A token as it came, before anybody has looked into it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) token: Vec<u8>,
    pub(super) by: Carrier,
}

/// What carried it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carrier {
    Header,
    Query,
    /// Which browsers send along with whatever a page asks for.
    Cookie,
}

/// The token that this request brings. Fails if it cannot be told which that is.
pub(super) fn token(request: &Request, api: Api) -> Result<Option<Credentials>, HttpError> {
    let mut bearers = request.headers("authorization").filter_map(bearer);
    if let Some(token) = bearers.next() {
        if bearers.next().is_some() {
            return Err(malformed("send one Authorization header, with one token"));
        }
        if token.is_empty() && api == Api::Own {
            return Ok(None); // who says nothing there has said nothing
        }
        return some(token.to_vec(), Carrier::Header);
    }
    if api == Api::Mercure {
        let mut queries = request.queries(PARAMETER).into_iter();
        if let Some(token) = queries.next() {
            if queries.next().is_some() {
                return Err(malformed("give one token in the query, once"));
            }
            return some(token.into_bytes(), Carrier::Query);
        }
    }
    Ok(match api {
        Api::Own => session(request),
        Api::Mercure => cookie(COOKIES.iter().find_map(|name| session::cookie(request, name))),
    })
}

/// The token of the session that the request is of.
pub(super) fn session(request: &Request) -> Option<Credentials> {
    cookie(session::token(request))
}

/// An empty cookie is one that was taken back.
fn cookie(token: Option<Vec<u8>>) -> Option<Credentials> {
    token.filter(|token| !token.is_empty()).map(|token| Credentials { token, by: Carrier::Cookie })
}

fn some(token: Vec<u8>, by: Carrier) -> Result<Option<Credentials>, HttpError> {
    if token.is_empty() {
        return Err(malformed("there is no token where one should be; send Bearer TOKEN"));
    }
    Ok(Some(Credentials { token, by }))
}

/// What follows `Bearer`. Another scheme is somebody else's: a proxy's, perhaps.
fn bearer(credentials: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = credentials.split_at_checked(6)?;
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
        let expected = expected.map(|(token, by)| Credentials { token: token.into(), by });
        assert_eq!(found, expected, "{target} {headers}");
    }

    const HEADER: &str = "Authorization: bEARER h\r\n";
    const BOTH: &str = "Cookie: threadcast_token=o; mercureAuthorization=c\r\n";

    #[test]
    fn one_place_goes_before_another() {
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
    fn what_is_not_certain_is_refused() {
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
