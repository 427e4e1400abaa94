//! JSON from outside: the one place where it is parsed.
//!
//! `serde_json` calls itself for each level of nesting, when it parses a value and again when the
//! value is written or dropped. A connection's thread has a stack of 64 KiB, and an overflow ends
//! the process. Depth is therefore checked by a loop before `serde_json` reads the text.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;
use serde_json::error::Category;
use serde_json::value::RawValue;

use crate::limits::JSON_DEPTH_MAX;

/// Why a text was not parsed.
#[derive(Debug)]
pub(crate) enum JsonError {
    /// It nests deeper than [`JSON_DEPTH_MAX`].
    TooDeep,
    /// It is not JSON.
    Syntax(serde_json::Error),
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooDeep => write!(f, "nests deeper than {JSON_DEPTH_MAX} levels; flatten it"),
            Self::Syntax(error) => write!(f, "not JSON: {error}"),
        }
    }
}

impl JsonError {
    /// The same as a sentence about `subject`.
    pub(crate) fn of(&self, subject: &str) -> String {
        match self {
            Self::TooDeep => format!("{subject} {self}"),
            Self::Syntax(_) => format!("{subject} is {self}"),
        }
    }
}

/// Parses a text of at most [`JSON_DEPTH_MAX`] levels.
pub(crate) fn parse(text: &[u8]) -> Result<Value, JsonError> {
    if nests_deeper(text, JSON_DEPTH_MAX) {
        return Err(JsonError::TooDeep);
    }
    serde_json::from_slice(text).map_err(JsonError::Syntax)
}

/// The members of an object of at most [`JSON_DEPTH_MAX`] levels, each as it was written; of
/// several with the same name the last one. `None` if the text is another value than an object.
pub(crate) fn members(text: &[u8]) -> Result<Option<BTreeMap<String, &RawValue>>, JsonError> {
    if nests_deeper(text, JSON_DEPTH_MAX) {
        return Err(JsonError::TooDeep);
    }
    match serde_json::from_slice(text) {
        Ok(members) => Ok(Some(members)),
        // No member has a type that does not fit, so it is the whole that is no object.
        Err(error) if error.classify() == Category::Data => parse(text).map(|_| None),
        Err(error) => Err(JsonError::Syntax(error)),
    }
}

/// The value without the white space between its tokens; numbers and strings stay as they are
/// written. A number with more digits than any machine type holds keeps all of them.
pub(crate) fn compact(value: &RawValue) -> String {
    let (mut in_string, mut escaped) = (false, false);
    let is_kept = |character: &char| {
        match character {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            _ => {}
        }
        in_string || !matches!(character, ' ' | '\t' | '\n' | '\r')
    };
    value.get().chars().filter(is_kept).collect()
}

/// The text without the byte order mark that it may begin with (RFC 8259 §8.1).
pub(crate) fn without_bom(text: &[u8]) -> &[u8] {
    text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text)
}

/// Whether arrays and objects nest deeper than `levels`, anywhere in the text.
///
/// The text need not be JSON. Brackets in strings do not count. A parser that stops at the first
/// error goes no deeper than this: up to there, both see the same brackets and strings.
pub(crate) fn nests_deeper(text: &[u8], levels: usize) -> bool {
    let mut depth = 0_usize;
    let (mut in_string, mut escaped) = (false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > levels {
                    return true;
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_counted_outside_of_strings() {
        for (json, depth) in [
            ("", 0),
            ("7", 0),
            ("[[1],{\"a\":[]}]", 3),
            (r#"{"a":"[[[["}"#, 1),
            (r#"{"a":"\"[[[["}"#, 1),
            (r#"{"a\\":[[]]}"#, 3),
            ("]]]][", 1),
        ] {
            assert!(!nests_deeper(json.as_bytes(), depth), "{json}");
            assert!(depth == 0 || nests_deeper(json.as_bytes(), depth - 1), "{json}");
        }
    }

    #[test]
    fn a_compact_value_is_spelled_as_it_was_written() {
        let text = "{ \"data\" : [ 1.50E+2, -0,\n\t\"a \\\" b\\\\\" ,{ } , 123456789012345678901234567890 ]}";
        let members = members(text.as_bytes()).unwrap().unwrap();
        let expected = r#"[1.50E+2,-0,"a \" b\\",{},123456789012345678901234567890]"#;
        assert_eq!(compact(members["data"]), expected);
    }

    #[test]
    fn members_are_of_objects_alone() {
        for text in ["[]", "7", "null", "\"{}\"", "[{\"a\":1}]"] {
            assert!(members(text.as_bytes()).unwrap().is_none(), "{text}");
        }
        for text in ["", "{", "[", "{\"a\":}", "{\"a\":1}x", "{a:1}", "[1", "{\"a\":01}"] {
            assert!(matches!(members(text.as_bytes()), Err(JsonError::Syntax(_))), "{text}");
        }
        let last = members(br#"{"a":1,"a":2}"#).unwrap().unwrap();
        assert_eq!(last["a"].get(), "2");
    }

    #[test]
    fn the_deepest_text_is_parsed_and_one_level_more_is_not() {
        let nested = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(nested(JSON_DEPTH_MAX).as_bytes()).is_ok());
        for levels in [JSON_DEPTH_MAX + 1, 64 * 1024] {
            let error = parse(nested(levels).as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), "nests deeper than 32 levels; flatten it");
        }
        let error = parse("{\"a\":".repeat(10_000).as_bytes()).unwrap_err();
        assert!(matches!(error, JsonError::TooDeep));
        let error = parse(b"[").unwrap_err().of("the body");
        assert!(error.starts_with("the body is not JSON: "), "{error}");
    }
}
