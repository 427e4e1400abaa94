//! Reads a client's last event id, under every name that clients use for it.

use super::error::HttpError;
use super::request::Request;

/// The query parameters that clients use for the last event id: those of this server and of
/// Mercure, those of event-source-polyfill and reconnecting-eventsource, and two of Mercure 0.x.
const PARAMETERS: [&str; 5] =
    ["last_event_id", "lastEventId", "lastEventID", "last-event-id", "Last-Event-ID"];

/// Returns the last event id of a request; `None` if it is absent or empty.
///
/// If the request has the id both in the `Last-Event-ID` header and in the query, the header wins:
/// a browser reconnects with an unchanged URL but updates the header, so the header is newer. Fails
/// if the header is not UTF-8.
#[inline(never)] // inlining would enlarge the stack of every stream
pub(super) fn last_event_id(request: &Request) -> Result<Option<String>, HttpError> {
    if let Some(id) = request.header("last-event-id").filter(|id| !id.is_empty()) {
        let id = std::str::from_utf8(id)
            .map_err(|_| HttpError::new(400, "Last-Event-ID must be UTF-8"))?;
        return Ok(Some(id.to_owned()));
    }
    let mut given = PARAMETERS.iter().filter_map(|name| request.query(name));
    Ok(given.find(|id| !id.is_empty()))
}

/// Returns whether a request has a last event id, even an empty one.
pub(super) fn is_given(request: &Request) -> bool {
    let in_query = || PARAMETERS.iter().any(|name| request.query(name).is_some());
    request.header("last-event-id").is_some() || in_query()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(target: &str, headers: &str) -> Option<String> {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
        let (request, _) = Request::parse(head.as_bytes()).unwrap().unwrap();
        last_event_id(&request).unwrap()
    }

    #[test]
    fn cursor_has_many_names_and_the_header_wins() {
        for name in PARAMETERS {
            assert_eq!(found(&format!("/?{name}=7-1"), "").as_deref(), Some("7-1"), "{name}");
        }
        assert_eq!(found("/?lastEventId=7-1", "Last-Event-ID: 7-2\r\n").as_deref(), Some("7-2"));
        assert_eq!(found("/?last_event_id=&lastEventId=7-1", "").as_deref(), Some("7-1"));
        assert_eq!(found("/?last_event_id=", "Last-Event-ID: \r\n"), None);
    }
}
