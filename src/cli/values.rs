//! Values that several commands take.

use std::time::Duration;

use bytesize::ByteSize;
use threadcast::Token;

/// Parses a duration of at least 1 ms, because a socket's timeout cannot be zero.
pub(super) fn positive(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration < Duration::from_millis(1) {
        return Err("must be at least 1ms".into());
    }
    Ok(duration)
}

/// Converts a size to bytes.
pub(super) fn bytes(size: ByteSize) -> usize {
    usize::try_from(size.as_u64()).unwrap_or(usize::MAX)
}

/// Reads a token from the first line of a file, so that the token is on no command line.
pub(super) fn token_file(path: &str) -> Result<Token, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    Token::new(text.lines().next().unwrap_or_default().trim()).map_err(|error| error.to_string())
}
