//! Serves subscriptions of the Mercure protocol.
//!
//! A subscription is a stream with the same preamble, heartbeat and `gap` events as a channel's
//! stream. `EventSource` ignores a `gap` event unless the page listens for that name.

use std::any::Any;

use super::subscriptions::{Selected, StreamSubscriptions};
use crate::http::access::{Api, ReadAccess};
use crate::http::answer::Headers;
use crate::http::error::HttpError;
use crate::http::exchange::Exchange;
use crate::http::forwarded::is_trusted;
use crate::http::reply::Reply;
use crate::http::streams;
use crate::id::EventId;
use crate::mercure::matcher::{Base, Purpose};
use crate::registry::{Bounds, Channels, Matcher, Start};

/// The reserved last event id with which a client requests the whole history.
const EARLIEST: &str = "earliest";

/// `GET /.well-known/mercure`: subscribes to the topics that the query selects.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
pub(in crate::http) fn subscribe(exchange: &Exchange<'_>) -> Result<Reply, HttpError> {
    let reader = ReadAccess::of(exchange, Api::Mercure)?;
    let selected = selected(&exchange.request.query, &base(exchange))?;
    let cursor = cursor(exchange)?;
    let matchers: Vec<Matcher> = selected.iter().map(|one| one.matcher.clone()).collect();
    let channels = Channels::of(&matchers)?.readable(reader.readable());
    let permit = streams::admit(exchange)?;
    let start = match cursor.as_deref() {
        None | Some("") => Start::Now,
        Some(EARLIEST) => Start::All,
        Some(id) => Start::After(earliest(exchange, &channels, id)),
    };
    if exchange.server.hub.is_over(&channels, &start) {
        return Ok(streams::over());
    }
    // For HEAD, the server does not subscribe, and so does not find out whether events after the
    // cursor are missing.
    let is_head = exchange.request.is_head();
    let subscription =
        if is_head { None } else { Some(exchange.server.hub.subscribe_boxed(&channels, &start)?) };
    let mut headers = Headers::new();
    if let Some(cursor) = cursor.filter(|cursor| !is_head || cursor == EARLIEST) {
        // This is the id of the event before the first event that is sent: the requested id,
        // `earliest` if events after that id are missing, or the newest id if the requested id is
        // empty.
        let preceding = match &subscription {
            Some(subscription) if !subscription.is_whole() => EARLIEST.to_owned(),
            Some(subscription) if cursor.is_empty() => newest(exchange, subscription.cursor),
            _ => cursor,
        };
        if selected.iter().any(|one| one.kind.is_some()) {
            headers.push(("Mercure-Last-Event-ID", preceding.clone().into()));
        }
        if selected.iter().any(|one| one.kind.is_none()) {
            headers.push(("Last-Event-ID", preceding.into()));
        }
    }
    if reader.token_in_url {
        headers.push(("Cache-Control", "private".into()));
    }
    let Some(subscription) = subscription else {
        return Ok(Reply::Head(streams::preamble(exchange, &[], headers)));
    };
    let first =
        [streams::first_frame(&exchange.request, &subscription, &streams::MERCURE_CURSOR_AS_EVENT)];
    let preamble = streams::preamble(exchange, &first, headers);
    let subscriptions = begin(exchange, &selected, &reader)?;
    let source = streams::live(exchange, preamble, subscription, &reader);
    Ok(streams::reply(exchange, source, permit, subscriptions))
}

/// Returns the URL against which relative topics and URL patterns are resolved.
///
/// It is `--jwt-audience` if that is set, and otherwise the URL that the request was sent to.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
fn base(exchange: &Exchange<'_>) -> Base {
    let config = &exchange.server.config;
    if let Some(base) = config.jwt_audience.as_deref().and_then(Base::new) {
        return base;
    }
    let request = &exchange.request;
    let by_proxy = is_trusted(exchange.peer.ip().to_canonical(), &config.trusted_proxies);
    let is_https = request.text("x-forwarded-proto").is_some_and(|it| it == "https");
    let scheme = if by_proxy && is_https { "https" } else { "http" };
    let host = request.host.as_deref().unwrap_or_default();
    Base::new(&format!("{scheme}://{host}")).unwrap_or_default()
}

/// Begins the subscriptions that the server reports. Returns `None` without
/// `--mercure-subscriptions`.
fn begin(
    exchange: &Exchange<'_>,
    selected: &[Selected],
    reader: &ReadAccess,
) -> Result<Option<Box<dyn Any + Send>>, HttpError> {
    let Some(active) = &exchange.server.subscriptions else { return Ok(None) };
    let hub = &exchange.server.hub;
    let begun = StreamSubscriptions::begin(hub, active, selected, reader.rights())?;
    Ok(Some(Box::new(begun)))
}

/// Converts a client-supplied id to the server's id of the earliest update that has it, in any of
/// the topics.
///
/// The server's own ids and unknown ids are returned unchanged.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
fn earliest(exchange: &Exchange<'_>, channels: &Channels, id: &str) -> String {
    let is_ours = id.parse::<EventId>().is_ok();
    let found = (!is_ours).then(|| exchange.server.hub.earliest(channels, id)).flatten();
    found.map_or_else(|| id.to_owned(), |found| found.to_string())
}

/// Returns the id of the last event that a stream which begins now does not get, or `earliest` if
/// no event has been published.
fn newest(exchange: &Exchange<'_>, cursor: Option<EventId>) -> String {
    // Until the first event, the last id of this node is `EPOCH-0`, and the last id of a shared log
    // is `0-0`.
    let shared = exchange.server.hub.is_shared();
    let known = cursor.filter(|id| if shared { *id != EventId::ZERO } else { id.n > 0 });
    known.map_or_else(|| EARLIEST.to_owned(), |id| id.to_string())
}

/// Returns the topic matchers of a query.
fn selected(query: &str, base: &Base) -> Result<Vec<Selected>, HttpError> {
    let mut selected: Vec<Selected> = Vec::new();
    let mut bounds = Bounds::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let (kind, matcher) = match &*name {
            "match" | "match_exact" => (Some("exact"), Matcher::exact(&value)),
            "match_urlpattern" => {
                (Some("urlpattern"), Matcher::url_pattern_for(Purpose::Stream, &value, base))
            }
            "topic" => (None, Matcher::selector(&value)),
            other if is_reserved_name(other) => {
                let detail = format!(
                    "unknown parameter {other:?}; select topics with match, match_exact, \
                     match_urlpattern or topic"
                );
                return Err(HttpError::new(400, detail));
            }
            _ => continue,
        };
        let matcher = matcher.map_err(|error| HttpError::from(error).at(&name))?;
        let one = Selected { kind, matcher };
        if !selected.contains(&one) {
            // The limits on matchers are checked before the next matcher is compiled, so that a
            // query over a limit costs little.
            bounds.add(one.matcher.bytes())?;
            selected.push(one);
        }
    }
    if selected.is_empty() {
        let detail = "no topic is selected; add ?match=TOPIC, ?match_urlpattern=PATTERN or \
                      ?topic=TEMPLATE";
        return Err(HttpError::new(400, detail));
    }
    Ok(selected)
}

/// Returns whether a parameter's name begins with `match`, which is reserved for matchers.
///
/// An unknown parameter with such a name is an error, so that misspellings are found.
fn is_reserved_name(name: &str) -> bool {
    name.as_bytes().get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"match"))
}

/// Returns the last event id of the request.
///
/// The id may be empty; the client then gets the id of the newest event in a response header.
fn cursor(exchange: &Exchange<'_>) -> Result<Option<String>, HttpError> {
    let is_given = || streams::has_last_event_id(&exchange.request).then(String::new);
    let cursor = streams::last_event_id(&exchange.request)?.or_else(is_given);
    // The response repeats the id in a header, where a control character could begin a new header
    // line. Other characters that ids must not contain today are accepted, because ids of earlier
    // versions may contain them.
    if cursor.as_deref().is_some_and(|id| id.contains(char::is_control)) {
        return Err(HttpError::new(400, "the last event id must not contain control characters"));
    }
    Ok(cursor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::NAMES_MAX;

    fn of(query: &str) -> Result<Vec<Selected>, HttpError> {
        selected(query, &Base::default())
    }

    #[test]
    fn both_generations_select_topics_and_misspellings_are_400() {
        let found = of("match=a&match_urlpattern=/b/:c&topic=/d/{e}&match_exact=a&x=y").unwrap();
        let found: Vec<_> = found.iter().map(|one| (one.kind, one.matcher.text())).collect();
        let expected = [(Some("exact"), "a"), (Some("urlpattern"), "/b/:c"), (None, "/d/{e}")];
        assert_eq!(found, expected);
        let many: Vec<String> = (0..=NAMES_MAX).map(|n| format!("match={n}")).collect();
        let many = many.join("&");
        for bad in [
            "",
            "x=y",
            "Match=a",
            "MATCH=a",
            "match_Exact=a",
            "match_regex=a",
            "matches=a",
            "match=",
            "match=a%0A",
            "match=%E2%80%8B",
            "match_urlpattern=http://[",
            "match=a&topics&matchx",
            &many,
        ] {
            assert_eq!(of(bad).map_err(|error| error.status()).err(), Some(400), "{bad}");
        }
    }
}
