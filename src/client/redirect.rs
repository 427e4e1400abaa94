//! Resolves the target of a redirect.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use ureq::http::header::LOCATION;
use ureq::http::{Method, Uri};

use super::http::Response;

/// The characters to escape in `Location`. They are invalid there, but some servers send them.
const UNWRITABLE: &AsciiSet = &CONTROLS.add(b' ');

/// Returns the target of a redirect. The client repeats the request's method at the target. Status
/// 303 asks for GET instead, so the client follows it only if the method is GET.
pub(super) fn redirect(response: &Response, method: &Method, from: &Uri) -> Option<Uri> {
    match response.status().as_u16() {
        301 | 302 | 307 | 308 => {}
        303 if *method == Method::GET => {}
        _ => return None,
    }
    let location = response.headers().get(LOCATION)?;
    resolve(from, std::str::from_utf8(location.as_bytes()).ok()?)
}

/// Resolves a reference (RFC 3986 §5.2). Returns `None` if the result is not an http or https URL.
pub(crate) fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default().trim();
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let is_scheme = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    };
    let absolute = match location.split_once(':') {
        Some((own, _)) if is_scheme(own) => location.to_owned(),
        _ if location.starts_with("//") => format!("{scheme}:{location}"),
        _ => {
            let folder = &base.path()[..=base.path().rfind('/').unwrap_or(0)];
            let path = match location.chars().next() {
                None => base.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
                Some('/') => location.to_owned(),
                Some('?') => format!("{}{location}", base.path()),
                Some(_) => format!("{folder}{location}"),
            };
            format!("{scheme}://{authority}{}", without_dots(&path))
        }
    };
    let url: Uri = utf8_percent_encode(&absolute, UNWRITABLE).to_string().parse().ok()?;
    let has_host = url.host().is_some_and(|host| !host.is_empty());
    (has_host && matches!(url.scheme_str(), Some("http" | "https"))).then_some(url)
}

/// Removes `.` and `..` segments from a path (RFC 3986 §5.2.4), but not from its query.
fn without_dots(path: &str) -> String {
    let (path, query) = path.split_at(path.find('?').unwrap_or(path.len()));
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            _ => {
                kept.push(segment);
                continue;
            }
        }
        if last {
            kept.push("");
        }
    }
    format!("/{}{query}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn location_is_resolved_against_the_request_url() {
        let base: Uri = "http://a:1/b/c/d?q".parse().unwrap();
        for (location, url) in [
            ("https://x/y?z#f", Some("https://x/y?z")),
            ("HTTP://x", Some("http://x/")),
            ("//x:2/y", Some("http://x:2/y")),
            ("/y/./z/../w", Some("http://a:1/y/w")),
            ("y", Some("http://a:1/b/c/y")),
            ("../y/", Some("http://a:1/b/y/")),
            ("../../../y", Some("http://a:1/y")),
            ("..", Some("http://a:1/b/")),
            (".", Some("http://a:1/b/c/")),
            ("?y=../z", Some("http://a:1/b/c/d?y=../z")),
            ("", Some("http://a:1/b/c/d?q")),
            ("/ü x", Some("http://a:1/%C3%BC%20x")),
            ("ftp://x/", None),
            ("mailto:x", None),
            ("//::1[]:1/", None),
        ] {
            let resolved = resolve(&base, location).map(|url| url.to_string());
            assert_eq!(resolved.as_deref(), url, "{location}");
        }
    }
}
