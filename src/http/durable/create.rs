//! PUT and DELETE: creates a stream or a fork, and deletes it.

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::super::answer::Answer;
use super::super::error::HttpError;
use super::super::exchange::Exchange;
use super::super::forwarded::is_trusted;
use super::super::request::Request;
use super::body::body;
use super::headers;
use crate::durable::{Create, Created, Fork, Streams};

/// The path of all streams.
const ROOT: [&str; 2] = ["v1", "stream"];

/// Answers `PUT /v1/stream/NAME`.
pub(super) fn create(
    exchange: &mut Exchange<'_>,
    streams: &Streams,
    name: &str,
) -> Result<Answer, HttpError> {
    let (body, _reserved) = body(exchange, streams)?;
    let request = &exchange.request;
    let (lifetime, fork) = (headers::lifetime(request)?, fork(request)?);
    let (media, is_closed) = (headers::media(request), headers::closes(request));
    let create = Create { media, lifetime, is_closed, fork, body };
    let Created { stream, is_new } = streams.create(name, create)?;
    let status = stream.status();
    let answer = Answer::new(if is_new { 201 } else { 200 })
        .with("Content-Type", stream.media().text().to_owned())
        .with("Stream-Next-Offset", stream.offset_of(status.tail).to_string());
    let answer = if is_new { answer.with("Location", location(exchange, name)) } else { answer };
    Ok(if status.is_closed { answer.with("Stream-Closed", "true") } else { answer })
}

/// Answers `DELETE /v1/stream/NAME`.
pub(super) fn delete(streams: &Streams, name: &str) -> Result<Answer, HttpError> {
    streams.delete(name)?;
    Ok(Answer::new(204))
}

/// Returns which part of another stream the request asks for.
fn fork(request: &Request) -> Result<Option<Fork>, HttpError> {
    let offset = headers::fork_offset(request)?;
    let part = headers::fork_part(request)?;
    let Some(path) = headers::text(request, "stream-forked-from")? else {
        if part.is_some() || offset.is_some() {
            let detail = "Stream-Fork-Offset and Stream-Fork-Sub-Offset need Stream-Forked-From";
            return Err(HttpError::new(400, detail));
        }
        return Ok(None);
    };
    let source = source(path).ok_or_else(|| {
        let detail = "Stream-Forked-From must be the path of a stream, such as /v1/stream/NAME";
        HttpError::new(400, detail)
    })?;
    Ok(Some(Fork { source: source.into(), offset, part: part.unwrap_or(0) }))
}

/// Returns the name in the path of a stream.
fn source(path: &str) -> Option<String> {
    let mut segments = path.strip_prefix('/')?.split('/');
    if !ROOT.iter().all(|root| segments.next() == Some(*root)) {
        return None;
    }
    let name: Option<Vec<_>> =
        segments.map(|segment| percent_decode_str(segment).decode_utf8().ok()).collect();
    name.map(|name| name.join("/")).filter(|name| !name.is_empty())
}

/// Returns the URL of a stream.
fn location(exchange: &Exchange<'_>, name: &str) -> String {
    const KEPT: percent_encoding::AsciiSet =
        NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
    let request = &exchange.request;
    let is_proxy = is_trusted(exchange.peer.ip(), &exchange.server.config.trusted_proxies);
    let is_secure = is_proxy && request.text("x-forwarded-proto") == Some("https");
    let scheme = if is_secure { "https" } else { "http" };
    let host = request.host.as_deref().unwrap_or("localhost");
    format!("{scheme}://{host}/{}/{}", ROOT.join("/"), utf8_percent_encode(name, &KEPT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_of_a_fork_is_the_path_of_a_stream() {
        assert_eq!(source("/v1/stream/a").as_deref(), Some("a"));
        assert_eq!(source("/v1/stream/a/b%20c").as_deref(), Some("a/b c"));
        for bad in ["", "/", "/v1/stream", "/v1/stream/", "v1/stream/a", "/v2/stream/a", "/a"] {
            assert_eq!(source(bad), None, "{bad}");
        }
    }
}
