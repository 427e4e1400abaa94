//! Fuzzes the URLs that the client uses: a server's URL, and the target of a redirect.
//!
//! The input's first line is the server's URL, the second the `Location` of a redirect, and the
//! third a channel's name.

use percent_encoding::percent_decode_str;
use ureq::http::Uri;

use crate::client::ServerUrl;
use crate::client::http::resolve;

/// Checks a server's URL, a `Location` and a channel's name.
pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split('\n');
    let (server, location) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let name = lines.next().unwrap_or_default();
    let Ok(server) = server.parse::<ServerUrl>() else { return };
    let shown = server.to_string();
    assert_eq!(shown.parse::<ServerUrl>().map(|again| again.to_string()).ok(), Some(shown));
    let channel = server.channel(name);
    let last = channel.rsplit('/').next().unwrap_or_default();
    assert_eq!(percent_decode_str(last).decode_utf8().ok().as_deref(), Some(name), "{channel}");
    assert!(!matches!(last, "." | ".."), "{channel}");
    let Ok(base) = channel.parse::<Uri>() else { return };
    let Some(target) = resolve(&base, location) else { return };
    assert!(matches!(target.scheme_str(), Some("http" | "https")), "{target}");
    assert!(target.host().is_some_and(|host| !host.is_empty()), "{target}");
    let written = target.to_string();
    assert!(!written.contains(|c: char| c.is_control() || c == ' '), "{written}");
    assert_eq!(resolve(&base, &written).map(|uri| uri.to_string()), Some(written));
}
