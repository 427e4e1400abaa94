//! Checks for names that are reserved for the hub: the topics and the event type of subscription
//! events.
//!
//! A publisher that could use these names could forge subscription events.

use std::sync::LazyLock;

use percent_encoding::percent_decode_str;
use url::Url;

use crate::http::error::HttpError;

/// The path of the hub. All paths of the protocol begin with it, except that of the metadata.
pub(super) const HUB: &str = "/.well-known/mercure";

/// The `Link` header with which a page announces the hub.
pub(in crate::http) const LINK: &str = "</.well-known/mercure>; rel=\"mercure\"";

/// The response headers that a page of another origin may read.
pub(in crate::http) const EXPOSED: &str = "Link, Mercure-Last-Event-ID, Last-Event-ID";

/// The event name of subscription events in the current generation.
pub(super) const EVENT_NAME: &str = "mercure";

/// The hub's URL with `https` and with `http`. Relative topics are resolved against both.
///
/// The host does not matter, but the scheme does: the topic `http:mercure` is a relative URL if the
/// hub's URL begins with `http:`, and an absolute URL otherwise.
static BASES: LazyLock<[Url; 2]> = LazyLock::new(|| {
    ["https", "http"]
        .map(|scheme| Url::parse(&format!("{scheme}://localhost{HUB}")).expect("a valid URL"))
});

/// Fails with 400 if the event type is reserved for the hub.
pub(in crate::http) fn check_event_name(name: &str) -> Result<(), HttpError> {
    if name == EVENT_NAME {
        let detail = "the event type `mercure` is reserved for the hub's subscription events; \
                      publish with another type";
        return Err(HttpError::new(400, detail));
    }
    Ok(())
}

/// Returns whether a topic names the hub's path or a path below it, in any spelling.
///
/// This function decodes more than a strict URL parser, so a few harmless topics count as reserved
/// too.
pub(in crate::http) fn is_reserved(topic: &str) -> bool {
    BASES.iter().any(|base| is_reserved_at(base, topic))
}

fn is_reserved_at(base: &Url, topic: &str) -> bool {
    let Ok(url) = base.join(topic) else { return false };
    let path = percent_decode_str(url.path()).decode_utf8_lossy();
    // Decoding may have produced new dot segments, so the path is resolved again.
    let Ok(resolved) = base.join(&path.replace(['?', '#', '%'], "_")) else { return false };
    let below = resolved.path().strip_prefix(HUB);
    below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_the_hubs_path_is_reserved() {
        for reserved in [
            "/.well-known/mercure",
            "/.well-known/mercure/",
            "/.well-known/mercure/subscriptions/exact/a/b",
            "https://hub.example/.well-known/mercure/subscriptions",
            "http://other.example:8080/.well-known/mercure?x=1#y",
            "//x/.well-known/mercure",
            "mercure",
            "./mercure/x",
            "../.well-known/mercure",
            "/.well-known/%6Dercure/x",
            "/%2Ewell-known/mercure",
            "/.well-known/x/../mercure",
            "/.well-known/x/%2e%2E/mercure",
            "\\.well-known\\mercure",
            "",
            "?x",
            "#x",
            "x:/.well-known/mercure/y",
            "https:mercure",
            "http:mercure/subscriptions/x",
            "HTTP:/.well-known/mercure",
        ] {
            assert!(is_reserved(reserved), "{reserved}");
        }
        for free in [
            "/.well-known/mercury",
            "/.well-known/mercurex",
            "/.well-known",
            "https://hub.example/books/1",
            "/x?y=/.well-known/mercure",
            "urn:uuid:5e94c686-2c0b-4f9b-958c-92ccc3bbb4eb",
            "urn:/well-known/mercure",
            "https://",
            "/.WELL-KNOWN/mercure",
            "chat",
        ] {
            assert!(!is_reserved(free), "{free}");
        }
    }
}
