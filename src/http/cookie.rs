//! Reads the cookies of a request.

use percent_encoding::percent_decode;

use super::request::Request;

/// The name of the session cookie. Its value is the token for reading, percent-encoded.
pub(super) const SESSION: &str = "threadcast_token";

/// Returns the token in a request's session cookie.
pub(crate) fn session(request: &Request) -> Option<Vec<u8>> {
    cookie(request, SESSION)
}

/// Returns the decoded value of the request's cookie with the name `wanted`.
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
            assert_eq!(session(&request).as_deref(), expected, "{cookie}");
        }
    }
}
