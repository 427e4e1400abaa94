//! Opens and closes browser sessions: a cookie that holds the token for reading.
//!
//! Browsers need this cookie, because `EventSource` cannot send an `Authorization` header, and a
//! token in a URL ends up in logs.

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

use super::access::{ReadAccess, SESSION};
use super::answer::Answer;
use super::error::HttpError;
use super::exchange::Exchange;
use super::reply::Reply;

/// The maximum length of the cookie's value, in bytes. Browsers keep cookies of up to 4,096 bytes,
/// including name and attributes (RFC 6265 §6.1).
const VALUE_MAX: usize = 4_000;

/// `POST /session` with a bearer token for reading: sets the cookie that holds the token.
///
/// Scripts cannot read the cookie, and browsers send it with requests of this server's pages only.
pub(super) fn open(exchange: &Exchange<'_>) -> Result<Reply, HttpError> {
    exchange.locality.check_origin()?;
    if exchange.server.keyring.current().subscribe.is_empty() {
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
    Ok(set(format!("{SESSION}={value}; Path=/; HttpOnly; SameSite=Strict")))
}

/// `DELETE /session`: deletes the cookie.
pub(super) fn close() -> Reply {
    set(format!("{SESSION}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"))
}

fn set(value: String) -> Reply {
    Reply::Answer(Answer::new(204).with("Set-Cookie", value))
}
