//! The media type of a stream, which decides how its bytes are read.

/// The longest media type that is accepted, in bytes.
const LENGTH_MAX: usize = 256;

/// The media type of a stream whose creator named none.
const DEFAULT: &str = "application/octet-stream";

/// A media type, such as `text/plain; charset=utf-8`.
#[derive(Debug, Clone)]
pub(crate) struct MediaType {
    text: Box<str>,
    /// The type without its parameters, in lower case.
    essence: Box<str>,
}

/// How the bytes of a stream are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// JSON messages; a read returns an array of them.
    Json,
    /// Text, which SSE carries as it is.
    Text,
    /// Other bytes, which SSE carries as base64.
    Binary,
}

impl MediaType {
    /// Parses the value of `Content-Type`. Returns `None` if it is not a media type.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim_matches([' ', '\t']);
        let is_token = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || is_mark(b))
        };
        let essence = text.split(';').next().unwrap_or_default().trim_matches([' ', '\t']);
        let (kind, subtype) = essence.split_once('/')?;
        let is_valid = is_token(kind)
            && is_token(subtype)
            && text.len() <= LENGTH_MAX
            && !text.contains(char::is_control);
        is_valid.then(|| Self { text: text.into(), essence: essence.to_ascii_lowercase().into() })
    }

    /// The type as the stream's creator wrote it.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn content(&self) -> Content {
        match &*self.essence {
            "application/json" => Content::Json,
            text if text.starts_with("text/") => Content::Text,
            _ => Content::Binary,
        }
    }
}

/// Parameters and upper case do not count.
impl PartialEq for MediaType {
    fn eq(&self, other: &Self) -> bool {
        self.essence == other.essence
    }
}

impl Default for MediaType {
    fn default() -> Self {
        Self { text: DEFAULT.into(), essence: DEFAULT.into() }
    }
}

/// Whether a byte is one of the characters besides letters and digits that a token may have (RFC
/// 9110 §5.6.2).
fn is_mark(byte: u8) -> bool {
    b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_compared_without_parameters_and_case() {
        let json = MediaType::parse("application/json").unwrap();
        assert_eq!(MediaType::parse(" Application/JSON ; charset=utf-8"), Some(json.clone()));
        assert_ne!(MediaType::parse("application/x-ndjson"), Some(json));
    }

    #[test]
    fn media_type_decides_how_bytes_are_read() {
        let content = |text| MediaType::parse(text).map(|media| media.content());
        assert_eq!(content("application/json;charset=utf-8"), Some(Content::Json));
        assert_eq!(content("TEXT/markdown"), Some(Content::Text));
        assert_eq!(content("application/x-ndjson"), Some(Content::Binary));
        for bad in ["", "text", "text/", "/plain", "te xt/plain", "text/plain; a=\u{1}", "a/b/c"] {
            assert_eq!(content(bad), None, "{bad:?}");
        }
        assert_eq!(content(&format!("text/{}", "x".repeat(LENGTH_MAX))), None);
    }
}
