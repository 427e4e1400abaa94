//! Fuzzes untrusted JSON. The depth of nesting is limited. The scan that checks this limit before
//! parsing must find the same depth as the parser.

use serde_json::Value;

use crate::json::{self, JsonError, nests_deeper};
use crate::limits::JSON_DEPTH_MAX;

/// Checks the depth and the parsing of a JSON text.
pub(super) fn check(bytes: &[u8]) {
    let is_deep = naive_depth(bytes) > JSON_DEPTH_MAX;
    assert_eq!(nests_deeper(bytes, JSON_DEPTH_MAX), is_deep);
    match json::parse(bytes) {
        Err(JsonError::TooDeep) => assert!(is_deep),
        Err(JsonError::Syntax(_)) => assert!(!is_deep),
        Ok(value) => {
            let depth = depth(&value);
            assert!(depth <= naive_depth(bytes) && !is_deep);
            let text = value.to_string();
            let again = json::parse(text.as_bytes()).expect("serialized JSON is valid");
            assert_eq!(self::depth(&again), depth, "{text}");
            assert_eq!(naive_depth(text.as_bytes()), depth, "{text}");
        }
    }
}

/// Returns the depth of nesting of a parsed value, computed without recursion.
fn depth(value: &Value) -> usize {
    let (mut deepest, mut open) = (0, vec![(value, 0)]);
    while let Some((value, above)) = open.pop() {
        let depth = above + usize::from(value.is_array() || value.is_object());
        deepest = deepest.max(depth);
        match value {
            Value::Array(values) => open.extend(values.iter().map(|value| (value, depth))),
            Value::Object(fields) => open.extend(fields.values().map(|value| (value, depth))),
            _ => {}
        }
    }
    deepest
}

/// Returns the depth of nesting of a JSON text: the greatest number of open brackets outside
/// strings.
fn naive_depth(bytes: &[u8]) -> usize {
    let (mut deepest, mut depth, mut rest) = (0, 0_usize, bytes);
    loop {
        let start = rest.iter().position(|byte| *byte == b'"').unwrap_or(rest.len());
        for byte in &rest[..start] {
            match byte {
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            deepest = deepest.max(depth);
        }
        let Some(string) = rest.get(start + 1..) else { return deepest };
        rest = after_string(string);
    }
}

/// Returns the text after a string. The argument begins after the string's opening quote.
fn after_string(mut string: &[u8]) -> &[u8] {
    loop {
        let at = string.iter().position(|byte| matches!(byte, b'"' | b'\\'));
        match at.map(|at| (at, string[at])) {
            None => return b"",
            Some((at, b'"')) => return &string[at + 1..],
            Some((at, _)) => string = string.get(at + 2..).unwrap_or_default(),
        }
    }
}
