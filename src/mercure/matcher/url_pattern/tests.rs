//! Tests of URL patterns, with the same kinds of patterns as the web platform tests.

use std::time::{Duration, Instant};

use super::super::error::{MatcherError, PATTERN_MAX};
use super::*;

fn new(pattern: &str) -> Result<UrlPattern, MatcherError> {
    UrlPattern::new(pattern, &Base::default())
}

fn resolve(topic: &str) -> Option<Url> {
    Base::default().resolve(topic)
}

fn matches(pattern: &str, topic: &str) -> bool {
    let pattern = new(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
    resolve(topic).is_some_and(|url| pattern.matches(&url))
}

#[test]
fn patterns_match_as_in_the_standard() {
    let table: [(&str, &[&str], &[&str]); 27] = [
        (
            "/foo/bar",
            &["/foo/bar", "https://localhost/foo/bar"],
            &["/foo/ba", "/foo/bar/baz", "https://example.com/foo/bar"],
        ),
        ("/foo/:bar", &["/foo/bar", "/foo/index.html"], &["/foo/bar/", "/foo/", "/foo"]),
        ("/foo/:bar?", &["/foo", "/foo/bar"], &["/foobar", "/foo/bar/baz"]),
        ("/foo/:bar+", &["/foo/bar", "/foo/bar/baz"], &["/foo", "/foo/"]),
        ("/foo/:bar*", &["/foo", "/foo/bar", "/foo/bar/baz"], &["/foo/", "/foobar"]),
        ("/foo/*", &["/foo/", "/foo/bar", "/foo/bar/baz"], &["/foo"]),
        ("/foo/(.*)", &["/foo/", "/foo/bar/baz"], &["/foo"]),
        ("/foo/(.*)?", &["/foo", "/foo/", "/foo/bar"], &["/foobar"]),
        ("/foo{/bar}?", &["/foo", "/foo/bar"], &["/foo/baz", "/foo/"]),
        ("/foo{/bar}*", &["/foo", "/foo/bar/bar"], &["/foo/bar/baz"]),
        (r"/foo/([^\/]+?)", &["/foo/bar"], &["/foo/bar/baz", "/foo/"]),
        (r"/users/:id(\d+)", &["/users/42"], &["/users/x", "/users/", "/users/4/2"]),
        ("/:a-:b", &["/1-2"], &["/1", "/-"]),
        ("/caf\u{e9}", &["/caf\u{e9}", "/caf%C3%A9"], &["/cafe", "/caf%E9"]),
        ("/a b", &["/a b", "/a%20b"], &["/a+b"]),
        (
            "https://example.com/:x",
            &["https://example.com/1", "https://EXAMPLE.com:443/1"],
            &["http://example.com/1", "https://example.com:8443/1", "/1"],
        ),
        ("https://example.com:8443/*", &["https://example.com:8443/1"], &["https://example.com/1"]),
        (
            "http{s}?://example.com/x",
            &["http://example.com/x", "https://example.com/x"],
            &["ftp://example.com/x"],
        ),
        (
            "https://*.example.com/x",
            &["https://a.example.com/x", "https://a.b.example.com/x"],
            &["https://example.com/x"],
        ),
        (
            "https://{:sub.}?example.com/x",
            &["https://a.example.com/x", "https://example.com/x"],
            &["https://a.b.example.com/x"],
        ),
        (
            "https://b\u{fc}cher.example/x",
            &["https://xn--bcher-kva.example/x", "https://B\u{dc}CHER.example/x"],
            &["https://bucher.example/x"],
        ),
        (
            "https://example.com/x?q=:q",
            &["https://example.com/x?q=1"],
            &["https://example.com/x", "https://example.com/x?r=1"],
        ),
        ("https://example.com/x#:part", &["https://example.com/x#a"], &["https://example.com/x"]),
        ("https://[\\:\\:1]/x", &["https://[::1]/x"], &["https://[::2]/x"]),
        ("data\\:foobar", &["data:foobar"], &["https://localhost/data:foobar"]),
        ("urn\\:uuid\\::id", &["urn:uuid:7"], &["urn:isbn:7", "/urn:uuid:7"]),
        ("books/:id", &["books/1", "/.well-known/books/1", "./x/../books/1"], &["/books/1"]),
    ];
    for (pattern, topics, others) in table {
        for topic in topics {
            assert!(matches(pattern, topic), "{pattern} {topic}");
        }
        for other in others {
            assert!(!matches(pattern, other), "{pattern} {other}");
        }
    }
}

#[test]
fn topic_that_is_not_a_url_matches_no_pattern() {
    for topic in ["https://", "http://[", "https://example.com:99999/", "https://a b/"] {
        assert!(resolve(topic).is_none(), "{topic}");
        assert!(!matches("*://*/*", topic), "{topic}");
    }
}

#[test]
fn malformed_pattern_is_rejected_with_a_reason() {
    for wrong in [
        "/:",
        "/(",
        "/(?)",
        "/((a))",
        "/{a",
        "/a}",
        "/{{a}}",
        "/(\u{e9})",
        "/:a/:a",
        "/(?i:a))",
        "https://a b/",
        "/(*)",
        r"/(\)",
    ] {
        assert!(new(wrong).is_err(), "{wrong}");
    }
    let no_pattern = new("/:").err().unwrap();
    assert!(matches!(no_pattern, MatcherError::Pattern { .. }), "{no_pattern}");
}

/// The parser of the crate `urlpattern` counts brackets, and an unbalanced one takes the count
/// below zero. This must not panic.
#[test]
fn unbalanced_bracket_in_a_host_is_rejected() {
    for host in ["*.exa]mple", "]", "a]:80", "]["] {
        assert!(new(&format!("https://{host}/a")).is_err(), "{host}");
    }
}

/// Returns patterns that are built to be slow, most of them of the greatest allowed length.
fn hostile() -> Vec<String> {
    let fill = |begin: &str, part: &str, end: &str| {
        let count = (PATTERN_MAX - begin.len() - end.len()) / part.len();
        format!("{begin}{}{end}", part.repeat(count))
    };
    let counted = |begin: &str, part: &dyn Fn(usize) -> String| {
        let mut pattern = begin.to_owned();
        for n in 0.. {
            let next = part(n);
            if pattern.len() + next.len() > PATTERN_MAX {
                return pattern;
            }
            pattern += &next;
        }
        unreachable!("every part makes the pattern longer")
    };
    vec![
        "/((?:a{1000}){1000})".into(),
        "/((?:(?:a?){40}){30})".into(),
        "/((?:a*)*b)".into(),
        "/((?:a|a)*b)".into(),
        "/((?:a|a?)+$)".into(),
        r"/((?u:\p{L}{100}))".into(),
        r"/((?iu:\p{L}+\p{L}+\p{L}+)x)".into(),
        fill("/((?u:", r"\p{L}", "))"),
        fill("/((?u:", r"[\p{L}--\p{Lu}]", "))"),
        fill("/((?iu:", "\\u{17f}", "))"),
        fill("/(", "a?", ")"),
        fill("/(", "(?:", "a") + &")".repeat(9),
        fill("/(", ".*", "x)"),
        fill("/(", ".*?", "x)"),
        fill("/(", "a|", "b)"),
        fill("/", "*a", ""),
        fill("/", "{a}?", ""),
        fill("", "{a:b}?", ""),
        counted("/", &|n| format!(":v{n}*")),
        counted("/", &|n| format!("{{a:v{n}b}}*")),
        counted("/", &|n| format!("(.*)x{n}")),
        counted("https://", &|n| format!("{{:s{n}.}}?")),
    ]
}

#[test]
fn no_pattern_is_slow_to_compile_or_to_match() {
    // This bound is far above the usual time, and far below a time that would help an attacker.
    let bound = Duration::from_millis(if cfg!(debug_assertions) { 1_500 } else { 150 });
    let long = |part: &str| format!("/{}", part.repeat((PATTERN_MAX - 2) / part.len()));
    let topics = [long("a"), long("ab"), long("\u{e9}"), long("a/"), long("x.")];
    for pattern in hostile() {
        let started = Instant::now();
        let compiled = new(&pattern);
        let took = started.elapsed();
        assert!(took < bound, "{pattern} took {took:?} to compile");
        let Ok(compiled) = compiled else { continue };
        for topic in &topics {
            let url = resolve(topic).unwrap();
            let started = Instant::now();
            let _ = compiled.matches(&url);
            let took = started.elapsed();
            assert!(took < bound, "{pattern} took {took:?} to match");
        }
    }
}
