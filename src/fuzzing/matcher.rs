//! Fuzzes matchers. Matching any pattern with any topic must be quick. An exact pattern must match
//! only itself (`*` matches every topic), and a template must match each of its expansions.
//!
//! The input's first line is the pattern, the second the topic, and the third the value of all
//! variables of a template.

use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::mercure::matcher::{MatcherError, check_topic};
use crate::registry::Matcher;

/// The maximum time of one check. It is about 1,000 times the time of a match.
const SOON: Duration = Duration::from_secs(if cfg!(debug_assertions) { 20 } else { 2 });

/// The characters to percent-encode: all except the unreserved ones of RFC 3986 §2.3.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Checks the properties above for a pattern, a topic and a value.
pub(super) fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split('\n');
    let (pattern, topic) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let value = lines.next().unwrap_or_default();
    let started = Instant::now();
    let exact = Matcher::exact(pattern);
    let selector = Matcher::selector(pattern);
    let url = Matcher::url_pattern(pattern);
    if check_topic(pattern).is_err() {
        return assert!(exact.is_err() && selector.is_err() && url.is_err());
    }
    let exact = exact.expect("a valid topic is a valid exact pattern");
    assert_eq!(exact.matches(topic), pattern == "*" || pattern == topic);
    assert!(exact.matches(pattern));
    if let Ok(url) = &url {
        assert_eq!(url.matches(topic), url.clone().matches(topic));
        assert_eq!(Matcher::url_pattern(pattern).as_ref(), Ok(url));
    }
    match &selector {
        Err(error) => assert_eq!(*error, MatcherError::TooBig),
        Ok(selector) => {
            assert!(selector.matches(pattern), "a template must match its own text");
            if selector.kind() == "template" {
                let _ = selector.matches(topic);
                for value in [None, Some(""), Some(value), Some(topic)] {
                    let expansion = expand(pattern, value);
                    // Longer expansions exceed the maximum length of a topic, and the matcher has
                    // no room for them.
                    if expansion.len() <= 1_024 {
                        assert!(selector.matches(&expansion), "{pattern} {expansion}");
                    }
                }
            } else {
                assert_eq!(*selector, exact);
            }
        }
    }
    let took = started.elapsed();
    assert!(took < SOON, "{took:?}");
}

/// Expands a valid template. Each variable has this value; with `None`, all variables are
/// undefined.
fn expand(template: &str, value: Option<&str>) -> String {
    let reserved = |c: char| c.is_ascii_alphanumeric() || "-._~:/?#[]@!$&'()*+,;=".contains(c);
    let escape = |text: &str, is_kept: &dyn Fn(char) -> bool| -> String {
        let escaped = |c: char| utf8_percent_encode(&c.to_string(), UNRESERVED).to_string();
        text.chars().map(|c| if is_kept(c) { c.to_string() } else { escaped(c) }).collect()
    };
    let mut expansion = String::new();
    for piece in template.split_inclusive('}') {
        let (literal, expression) = piece.split_once('{').unwrap_or((piece, ""));
        expansion += &escape(literal, &|c| reserved(c) || c == '%');
        let (Some(expression), Some(value)) = (expression.strip_suffix('}'), value) else {
            continue;
        };
        let operator = expression.chars().next().filter(|c| "+#./;?&".contains(*c));
        let names = &expression[operator.map_or(0, char::len_utf8)..];
        let (first, separator) = match operator {
            None | Some('+') => ("", ","),
            Some('#') => ("#", ","),
            Some('.') => (".", "."),
            Some('/') => ("/", "/"),
            Some(';') => (";", ";"),
            Some('?') => ("?", "&"),
            Some(_) => ("&", "&"),
        };
        let parts = names.split(',').map(|name| {
            let (name, length) = name.split_once(':').unwrap_or((name, "10000"));
            let length = length.parse().expect("a valid template");
            let value: String = value.chars().take(length).collect();
            let value = match operator {
                Some('+' | '#') => escape(&value, &reserved),
                _ => escape(&value, &|c| c.is_ascii_alphanumeric() || "-._~".contains(c)),
            };
            let name = name.trim_end_matches('*');
            match operator {
                Some(';') if value.is_empty() => name.to_owned(),
                Some(';' | '?' | '&') => format!("{name}={value}"),
                _ => value,
            }
        });
        expansion += first;
        expansion += &parts.collect::<Vec<_>>().join(separator);
    }
    expansion
}
