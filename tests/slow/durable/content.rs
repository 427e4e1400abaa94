//! Random bodies of appends, and what readers receive of them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use fastrand::Rng;

/// What a stream has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Json,
    Binary,
}

/// The body of a request.
#[derive(Debug, Clone, Default)]
pub(super) struct Body {
    /// The bytes on the wire.
    pub(super) sent: Vec<u8>,
    /// The bytes that the stream then has: JSON messages have no white space, and a comma each.
    pub(super) stored: Vec<u8>,
    /// Where each message in `stored` ends.
    pub(super) ends: Vec<usize>,
    /// The rest of a character of which `stored` has the beginning.
    pub(super) rest: Vec<u8>,
}

/// Parts of texts: line ends, spaces, characters of several bytes, and what could be taken for SSE.
const TEXTS: [&str; 18] = [
    "a",
    "token",
    "0",
    "Z",
    " ",
    "  ",
    "\n",
    "\r",
    "\r\n",
    "\n\n",
    "ü",
    "€",
    "🦀",
    "\u{feff}",
    ":",
    "data: x\n",
    "event: control\n",
    "id: 7\n\n",
];

/// Parts of JSON strings, as they are between the quotes.
const STRINGS: [&str; 9] = ["a", "token", " ", "\\n", "\\\"", "\\u0000", "ü", "🦀", "],["];

/// The longest JSON message of a body, in bytes.
const MESSAGE: usize = 20_000;

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Text, Self::Json, Self::Binary];

    pub(super) fn media(self) -> &'static str {
        match self {
            Self::Text => "text/plain",
            Self::Json => "application/json",
            Self::Binary => "application/octet-stream",
        }
    }

    /// Returns the stored bytes that the body of a read has; `None` if it is not well formed.
    pub(super) fn stored(self, body: Vec<u8>) -> Option<Vec<u8>> {
        if self != Self::Json {
            return Some(body);
        }
        let mut inner = body.strip_prefix(b"[")?.strip_suffix(b"]")?.to_vec();
        if !inner.is_empty() {
            inner.push(b',');
        }
        Some(inner)
    }

    /// Returns the data of an SSE event that has these stored bytes.
    pub(super) fn event(self, stored: &[u8]) -> String {
        match self {
            Self::Text => String::from_utf8_lossy(stored).replace("\r\n", "\n").replace('\r', "\n"),
            Self::Json => {
                let messages = stored.strip_suffix(b",").unwrap_or(stored);
                format!("[{}]", String::from_utf8_lossy(messages))
            }
            Self::Binary => BASE64.encode(stored),
        }
    }
}

impl Body {
    /// Makes a body of a random length, which follows the bytes `before` of a character.
    pub(super) fn random(kind: Kind, before: &[u8], rng: &mut Rng) -> Self {
        let length = match rng.u32(0..100) {
            0..80 => rng.usize(1..200),
            80..98 => rng.usize(200..40_000),
            _ => rng.usize(40_000..1_200_000),
        };
        match kind {
            Kind::Text => Self::text(length, before, rng),
            Kind::Json => Self::json(length, rng),
            Kind::Binary => {
                let mut bytes = vec![0; length];
                rng.fill(&mut bytes);
                Self::of(bytes)
            }
        }
    }

    fn of(stored: Vec<u8>) -> Self {
        Self { sent: stored.clone(), ends: vec![stored.len()], stored, rest: Vec::new() }
    }

    /// Makes a text whose last character may be cut.
    fn text(length: usize, before: &[u8], rng: &mut Rng) -> Self {
        let mut bytes = before.to_vec();
        while bytes.len() < length {
            bytes.extend_from_slice(pick(&TEXTS, rng).as_bytes());
        }
        let mut rest = Vec::new();
        if rng.u32(0..3) == 0 {
            let last = pick(&["ü", "€", "🦀"], rng);
            bytes.extend_from_slice(last.as_bytes());
            rest = bytes.split_off(bytes.len() - rng.usize(1..last.len()));
        }
        Self { rest, ..Self::of(bytes) }
    }

    fn json(length: usize, rng: &mut Rng) -> Self {
        let mut body = Self::default();
        let mut messages = Vec::new();
        while body.stored.len() < length {
            let message = message(rng.usize(0..(length - body.stored.len()).min(MESSAGE)), rng);
            body.stored.extend_from_slice(message.as_bytes());
            body.stored.push(b',');
            body.ends.push(body.stored.len());
            messages.push(message);
        }
        let is_bare = messages.len() == 1 && !messages[0].starts_with('[') && rng.bool();
        let space = ["", " ", "\n", " \t"][rng.usize(0..4)];
        let list = messages.join(&format!("{space},{space}"));
        body.sent =
            if is_bare { list } else { format!("{space}[{space}{list}{space}]") }.into_bytes();
        body
    }
}

/// Returns a JSON text without white space between its tokens.
fn message(length: usize, rng: &mut Rng) -> String {
    let mut text = String::new();
    while text.len() < length {
        text.push_str(pick(&STRINGS, rng));
    }
    let number = ["-0", "1.50e+2", "123456789012345678901234567890", "7"][rng.usize(0..4)];
    match rng.u32(0..4) {
        0 => format!("\"{text}\""),
        1 => format!("[{number},[null,\"{text}\"]]"),
        2 => number.to_owned(),
        _ => format!("{{\"n\":{},\"is\":true,\"text\":\"{text}\"}}", rng.u64(..)),
    }
}

fn pick<'a>(parts: &[&'a str], rng: &mut Rng) -> &'a str {
    parts[rng.usize(0..parts.len())]
}
