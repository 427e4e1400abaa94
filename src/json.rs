//! Parses JSON that comes from outside the process, with a limit on its depth.
//!
//! `serde_json` recurses for each level of nesting: when it parses a value, and again when the
//! value is written or dropped. A connection's thread has a stack of 64 KiB, and an overflow ends
//! the process. So this module checks the depth, in a loop, before `serde_json` reads the text.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::error::Category;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::limits::JSON_DEPTH_MAX;

/// Why a text cannot be parsed.
#[derive(Debug, Error)]
pub(crate) enum JsonError {
    /// The text nests deeper than [`JSON_DEPTH_MAX`].
    #[error("nests deeper than {JSON_DEPTH_MAX} levels; flatten it")]
    TooDeep,
    /// The text is not JSON.
    #[error("not JSON: {0}")]
    Syntax(serde_json::Error),
}

impl JsonError {
    /// Returns the error as a sentence about `subject`.
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

/// Parses an object of at most [`JSON_DEPTH_MAX`] levels into its members. Each member's value is
/// the text as it was written.
///
/// If a name occurs more than once, the last member counts. `None` means that the text is JSON but
/// not an object.
pub(crate) fn members(text: &[u8]) -> Result<Option<BTreeMap<String, &RawValue>>, JsonError> {
    if nests_deeper(text, JSON_DEPTH_MAX) {
        return Err(JsonError::TooDeep);
    }
    match serde_json::from_slice(text) {
        Ok(members) => Ok(Some(members)),
        // `RawValue` accepts any JSON, so a data error means that the whole text is not an object.
        Err(error) if error.classify() == Category::Data => parse(text).map(|_| None),
        Err(error) => Err(JsonError::Syntax(error)),
    }
}

/// Parses a text into the elements of its array or, if it is not an array, its only value. Each is
/// the text as it was written.
///
/// The depth has no limit, because `serde_json` skips a [`RawValue`] without recursion.
pub(crate) fn elements(text: &[u8]) -> Result<Vec<&RawValue>, JsonError> {
    let is_array = text.trim_ascii_start().starts_with(b"[");
    let elements = if is_array {
        serde_json::from_slice(text)
    } else {
        serde_json::from_slice(text).map(|value| vec![value])
    };
    elements.map_err(JsonError::Syntax)
}

/// Counts the commas between the elements of an array. The text may be invalid JSON.
pub(crate) fn top_level_commas(text: &[u8]) -> usize {
    let (mut depth, mut commas) = (0_usize, 0);
    for byte in outside_strings(text) {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' if depth == 1 => commas += 1,
            _ => {}
        }
    }
    commas
}

/// Removes the white space between the tokens of a value.
///
/// Numbers and strings stay as they are written; a number keeps all its digits, even those that no
/// machine type holds.
pub(crate) fn compact(value: &RawValue) -> String {
    let mut strings = Strings::default();
    let is_kept = |character: &char| {
        let is_inside = strings.contain(*character);
        is_inside || !matches!(character, ' ' | '\t' | '\n' | '\r')
    };
    value.get().chars().filter(is_kept).collect()
}

/// Finds the strings of a JSON text while it is read from its start.
#[derive(Default)]
struct Strings {
    is_inside: bool,
    is_escaped: bool,
}

impl Strings {
    /// Whether the next character belongs to a string: it is one of its quotes, or between them.
    fn contain(&mut self, next: char) -> bool {
        let was_inside = self.is_inside;
        match next {
            _ if self.is_escaped => self.is_escaped = false,
            '\\' if self.is_inside => self.is_escaped = true,
            '"' => self.is_inside = !self.is_inside,
            _ => {}
        }
        was_inside || self.is_inside
    }
}

/// Iterates over the bytes of a JSON text that belong to no string.
fn outside_strings(text: &[u8]) -> impl Iterator<Item = u8> {
    let mut strings = Strings::default();
    text.iter().copied().filter(move |byte| !strings.contain(char::from(*byte)))
}

/// Strips a leading byte order mark (RFC 8259 §8.1).
pub(crate) fn without_bom(text: &[u8]) -> &[u8] {
    text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text)
}

/// Whether arrays and objects nest deeper than `levels`, anywhere in the text.
///
/// Brackets in strings do not count. The text may be invalid JSON: a parser stops at the first
/// error, and up to that error it sees the same brackets and strings as this function. So the
/// parser recurses no deeper than this function counts.
pub(crate) fn nests_deeper(text: &[u8], levels: usize) -> bool {
    let mut depth = 0_usize;
    for byte in outside_strings(text) {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                if depth > levels {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_in_strings_do_not_count_as_depth() {
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
    fn compact_value_keeps_the_spelling_of_its_tokens() {
        let text = "{ \"data\" : [ 1.50E+2, -0,\n\t\"a \\\" b\\\\\" ,{ } , 123456789012345678901234567890 ]}";
        let members = members(text.as_bytes()).unwrap().unwrap();
        let expected = r#"[1.50E+2,-0,"a \" b\\",{},123456789012345678901234567890]"#;
        assert_eq!(compact(members["data"]), expected);
    }

    #[test]
    fn only_an_object_has_members() {
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
    fn json_above_the_depth_limit_is_rejected() {
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
