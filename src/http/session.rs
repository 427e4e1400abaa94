//! A browser's way in: a cookie, because an `EventSource` can send no header
//! and a token in a URL ends up in logs.

use percent_encoding::{NON_ALPHANUMERIC, percent_decode, percent_encode};

use super::access::ReadAccess;
use super::answer::Answer;
use super::connection::Exchange;
use super::error::HttpError;
use super::request::Request;
use super::routes::Reply;

/// The cookie's name. Its value is the token, percent-encoded.
const COOKIE: &str = "threadcast_token";

/// The longest value that browsers keep, with its name and attributes.
const LONGEST: usize = 4_000;

/// `POST /session` with the bearer token sets the cookie. Scripts cannot read
/// it, and it is sent with requests of our own pages alone.
pub(super) fn open(exchange: &Exchange<'_>) -> Result<Reply, HttpError> {
    exchange.locality.check_origin()?;
    let config = &exchange.server.config;
    if config.subscribe_token.is_none() && config.subscribe_key.is_none() {
        let detail = "no session is needed: the server was started without --subscribe-token \
                      and without a key for JWTs";
        return Err(HttpError::new(404, detail));
    }
    let token = ReadAccess::bearer(exchange)?;
    let value = percent_encode(&token, NON_ALPHANUMERIC).to_string();
    if value.len() > LONGEST {
        let detail = "the token is too long for a cookie; have one made that names less";
        return Err(HttpError::new(413, detail));
    }
    Ok(set(format!("{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict")))
}

/// `DELETE /session` takes the cookie back.
pub(super) fn close() -> Reply {
    set(format!("{COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"))
}

fn set(value: String) -> Reply {
    Reply::Answer(Answer::new(204).with("Set-Cookie", value))
}

/// The token of a request's session.
pub(crate) fn token(request: &Request) -> Option<Vec<u8>> {
    cookie(request, COOKIE)
}

/// The value of a request's cookie.
pub(super) fn cookie(request: &Request, wanted: &str) -> Option<Vec<u8>> {
    let mut cookies = request.headers("cookie").flat_map(|list| list.split(|byte| *byte == b';'));
    let value = cookies.find_map(|pair| {
        let (name, value) = pair.trim_ascii().split_at_checked(wanted.len())?;
        (name == wanted.as_bytes()).then(|| value.strip_prefix(b"=")).flatten()
    });
    value.map(|value| percent_decode(value).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_found_among_other_cookies() {
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
