//! The bytes of one append, and where its parts end.

use super::media::Content;
use crate::json::{self, JsonError};

/// The maximum number of messages in one append.
pub(super) const MESSAGES_MAX: usize = 64 * 1024;

/// The bytes of one append as they are stored.
///
/// A JSON message is stored as its text and a comma, so that a read is a slice between brackets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Messages {
    pub(super) bytes: Vec<u8>,
    /// Where each part ends: a JSON message, or everything.
    pub(super) ends: Vec<usize>,
}

/// Why a body cannot be appended.
#[derive(Debug)]
pub(crate) enum BodyError {
    /// The body is not JSON.
    Json(JsonError),
    /// The body has no message: it is `[]`.
    Nothing,
    /// A message is longer than this many bytes.
    LongMessage(usize),
    /// The body has more than [`MESSAGES_MAX`] messages.
    ManyMessages,
}

impl Messages {
    /// Reads the body of an append. An array is flattened by one level: each element is a message.
    ///
    /// Numbers keep their digits, and strings their escapes; only white space between tokens is
    /// removed.
    pub(super) fn of(content: Content, body: Vec<u8>, longest: usize) -> Result<Self, BodyError> {
        if content != Content::Json {
            let ends = if body.is_empty() { Vec::new() } else { vec![body.len()] };
            return Ok(Self { bytes: body, ends });
        }
        if json::top_level_commas(&body) >= MESSAGES_MAX {
            return Err(BodyError::ManyMessages);
        }
        let mut all = Self { bytes: Vec::with_capacity(body.len() + 1), ends: Vec::new() };
        for message in json::elements(&body).map_err(BodyError::Json)? {
            let message = json::compact(message);
            if message.len() > longest {
                return Err(BodyError::LongMessage(longest));
            }
            all.bytes.extend_from_slice(message.as_bytes());
            all.bytes.push(b',');
            all.ends.push(all.bytes.len());
        }
        Ok(all)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(body: &str) -> (String, Vec<usize>) {
        let Messages { bytes, ends } = Messages::of(Content::Json, body.into(), 100).unwrap();
        (String::from_utf8(bytes).unwrap(), ends)
    }

    #[test]
    fn array_is_flattened_by_one_level() {
        assert_eq!(stored("[1, 2]"), ("1,2,".into(), vec![2, 4]));
        assert_eq!(stored("[[1,2]]"), ("[1,2],".into(), vec![6]));
        assert_eq!(stored(" {\"a\": [1,\n2]} "), ("{\"a\":[1,2]},".into(), vec![12]));
        assert_eq!(stored(" [ ] "), (String::new(), vec![]));
    }

    #[test]
    fn messages_keep_the_spelling_of_their_numbers() {
        let body = "[123456789012345678901234567890, 1.50e+2, -0, \"a , [ b\"]";
        assert_eq!(stored(body).0, "123456789012345678901234567890,1.50e+2,-0,\"a , [ b\",");
    }

    #[test]
    fn body_that_is_not_one_json_text_is_rejected() {
        for body in ["", "{", "[1,]", "1 2", "[1]x", "{a:1}", "[01]", "\u{feff}1"] {
            let read = Messages::of(Content::Json, body.into(), 100);
            assert!(matches!(read, Err(BodyError::Json(_))), "{body}");
        }
    }

    #[test]
    fn deep_message_is_stored_without_recursion() {
        let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        let stored = Messages::of(Content::Json, deep.clone().into_bytes(), usize::MAX).unwrap();
        assert_eq!(stored.bytes.len(), deep.len() - 2 + 1);
    }

    #[test]
    fn long_messages_and_many_messages_are_rejected() {
        let of = |body: String| Messages::of(Content::Json, body.into_bytes(), 100);
        let long = format!("[1,\"{}\"]", "x".repeat(99));
        assert!(matches!(of(long), Err(BodyError::LongMessage(100))));
        let many = |count: usize| format!("[{}1]", "1,".repeat(count - 1));
        assert_eq!(of(many(MESSAGES_MAX)).unwrap().ends.len(), MESSAGES_MAX);
        assert!(matches!(of(many(MESSAGES_MAX + 1)), Err(BodyError::ManyMessages)));
    }
}
