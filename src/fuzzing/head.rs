//! Fuzzes request heads. The result must not depend on where reads split a head. A head that is
//! accepted must also be accepted by a naive parser of RFC 9112.

use crate::http::error::HttpError;
use crate::http::request::{BodyLength, Request};

/// Parses a request head as a whole and line by line, and checks the result.
pub(super) fn check(bytes: &[u8]) {
    let whole = parse(bytes);
    // Parses again after each line, as `http::connection` does.
    let line_ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    let first = line_ends.map(|(at, _)| parse(&bytes[..=at])).find(|read| *read != Ok(None));
    if let Some(first) = first {
        assert_eq!(first, whole, "the position of the cut made a difference");
    } else {
        assert!(!matches!(whole, Ok(Some(_))), "accepted a head that ends within a line");
    }
    if let Ok(Some((request, length))) = Request::parse(bytes) {
        let (head, behind) = bytes.split_at(length);
        assert_eq!(
            parse(&[head, b"\0 anything"].concat()),
            whole,
            "bytes after the head made a difference: {behind:?}"
        );
        check_naively(&request, head);
    }
}

fn parse(bytes: &[u8]) -> Result<Option<(String, usize)>, HttpError> {
    Request::parse(bytes).map(|read| read.map(|(head, length)| (format!("{head:?}"), length)))
}

/// Parses the head line by line as RFC 9112 describes it, and panics if a strict server would
/// reject it.
fn check_naively(request: &Request, head: &[u8]) {
    let text = head.strip_suffix(b"\n").expect("a head ends with its line");
    let lines = text.split(|byte| *byte == b'\n');
    let mut lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let line = lines.find(|line| !line.is_empty()).expect("a request line");
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [method, target, version] = words[..] else { panic!("not three words: {words:?}") };
    assert_eq!(method, request.method.as_str().as_bytes());
    assert!(target.iter().all(|byte| byte.is_ascii_graphic() || *byte >= 0x80), "{target:?}");
    let minor = version.strip_prefix(b"HTTP/1.").expect("a version that is known");
    assert!(minor.len() == 1 && minor[0].is_ascii_digit());

    let (mut hosts, mut lengths, mut encodings) = (Vec::new(), Vec::new(), Vec::new());
    let fields: Vec<&[u8]> = lines.collect();
    let Some((empty, fields)) = fields.split_last() else { panic!("no empty line at the end") };
    assert!(empty.is_empty());
    for field in fields {
        let colon = field.iter().position(|byte| *byte == b':').expect("a colon");
        let (name, value) = (&field[..colon], field[colon + 1..].trim_ascii());
        assert!(!name.is_empty() && name.iter().all(|byte| is_token(*byte)), "{field:?}");
        assert!(!value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t'), "{field:?}");
        match &*name.to_ascii_lowercase() {
            b"host" => hosts.push(value),
            b"content-length" => lengths.push(value),
            b"transfer-encoding" => encodings.push(value),
            _ => {}
        }
    }
    assert!(hosts.len() == 1 || (minor == b"0" && hosts.is_empty()), "one Host");
    match request.body {
        BodyLength::None => assert!(lengths.is_empty() && encodings.is_empty()),
        BodyLength::Fixed(length) => {
            assert!(lengths.len() == 1 && encodings.is_empty());
            let digits = std::str::from_utf8(lengths[0]).expect("digits");
            assert_eq!(digits.parse(), Ok(length));
        }
        BodyLength::Chunked => {
            assert!(lengths.is_empty() && encodings.len() == 1 && minor != b"0");
            assert!(encodings[0].eq_ignore_ascii_case(b"chunked"));
        }
    }
    assert!(request.segments.iter().all(|segment| !segment.contains('\0')));
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
