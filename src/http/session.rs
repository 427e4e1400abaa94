//! A browser's way in: a cookie, because an `EventSource` can send no header
//! and a token in a URL ends up in logs.

use percent_encoding::{NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};

use super::access;
use super::answer::Answer;
use super::connection::Exchange;
use super::refusal::Refusal;
use super::request::Request;
use super::routes::Reply;

/// The cookie's name. Its value is the token, percent-encoded.
const COOKIE: &str = "threadcast_token";

/// `POST /session` with the bearer token sets the cookie. Scripts cannot read
/// it, and it is sent with requests of our own pages alone.
pub(super) fn open(exchange: &Exchange<'_>) -> Result<Reply, Refusal> {
    let Some(token) = &exchange.server.config.subscribe_token else {
        let detail = "no session is needed: the server was started without --subscribe-token";
        return Err(Refusal::new(404, detail));
    };
    access::check_bearer(&exchange.request, token)?;
    let value = utf8_percent_encode(token.secret(), NON_ALPHANUMERIC);
    Ok(cookie(format!("{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict")))
}

/// `DELETE /session` takes the cookie back.
pub(super) fn close() -> Reply {
    cookie(format!("{COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"))
}

fn cookie(value: String) -> Reply {
    Reply::Answer(Answer::new(204).with("Set-Cookie", value))
}

/// The token of a request's cookie.
pub(super) fn token(request: &Request) -> Option<Vec<u8>> {
    let mut cookies = request.header("cookie")?.split(|byte| *byte == b';');
    let value = cookies.find_map(|pair| {
        let (name, value) = pair.trim_ascii().split_at_checked(COOKIE.len())?;
        (name == COOKIE.as_bytes()).then(|| value.strip_prefix(b"=")).flatten()
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
