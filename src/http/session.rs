//! Opens and closes browser sessions: a cookie that holds the token for reading.
//!
//! Browsers need this cookie, because `EventSource` cannot send an `Authorization` header, and a
//! token in a URL ends up in logs.

use percent_encoding::{NON_ALPHANUMERIC, percent_decode, percent_encode};

use super::access::ReadAccess;
use super::answer::Answer;
use super::connection::Exchange;
use super::error::HttpError;
use super::request::Request;
use super::routes::Reply;

/// The cookie's name. The cookie's value is the token, percent-encoded.
const COOKIE: &str = "threadcast_token";

/// The maximum length of the cookie's value, in bytes. Browsers keep cookies of up to 4,096 bytes,
/// including name and attributes (RFC 6265 §6.1).
const VALUE_MAX: usize = 4_000;

/// `POST /session` with a bearer token for reading: sets the cookie that holds the token.
///
/// Scripts cannot read the cookie, and browsers send it with requests of this server's pages only.
pub(super) fn open(exchange: &Exchange<'_>) -> Result<Reply, HttpError> {
    exchange.locality.check_origin()?;
    let config = &exchange.server.config;
    if config.subscribe_token.is_none() && config.subscribe_key.is_none() {
        let detail = "there are no sessions, because reading needs no token; open the stream \
                      without one";
        return Err(HttpError::new(404, detail));
    }
    let token = ReadAccess::bearer_token(exchange)?;
    let value = percent_encode(&token, NON_ALPHANUMERIC).to_string();
    if value.len() > VALUE_MAX {
        let detail = "the token is too long for a cookie; get one with fewer topics or claims";
        return Err(HttpError::new(413, detail));
    }
    Ok(set(format!("{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict")))
}

/// `DELETE /session`: deletes the cookie.
pub(super) fn close() -> Reply {
    set(format!("{COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"))
}

fn set(value: String) -> Reply {
    Reply::Answer(Answer::new(204).with("Set-Cookie", value))
}

/// Returns the token in a request's session cookie.
pub(crate) fn token(request: &Request) -> Option<Vec<u8>> {
    cookie(request, COOKIE)
}

/// Returns the decoded value of the request's cookie with the name `wanted`.
pub(super) fn cookie(request: &Request, wanted: &str) -> Option<Vec<u8>> {
    let mut cookies = request.headers("cookie").flat_map(|list| list.split(|byte| *byte == b';'));
    let value = cookies
        .find_map(|pair| pair.trim_ascii().strip_prefix(wanted.as_bytes())?.strip_prefix(b"="));
    value.map(|value| percent_decode(value).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(token(&request).as_deref(), expected, "{cookie}");
        }
    }
}
