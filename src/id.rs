//! The name of a place in the order of all events.

use std::fmt;
use std::str::FromStr;

/// An event's id, and a place in the order of all events of one server.
///
/// It is written `<epoch>-<n>`: `n` counts over the whole server, and the epoch
/// tells one life of its history from another, so that a cursor from before a
/// restart is known to be one.
///
/// ```
/// use threadcast::EventId;
///
/// let id: EventId = "7-41".parse()?;
/// assert!(id < "7-42".parse()?);
/// assert_eq!(id.to_string(), "7-41");
/// # Ok::<(), threadcast::ParseIdError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EventId {
    /// Which life of the history.
    pub epoch: u64,
    /// The place in it.
    pub n: u64,
}

impl EventId {
    /// Before every event.
    pub const ZERO: Self = Self { epoch: 0, n: 0 };

    /// The next id of the same epoch.
    #[must_use]
    pub fn next(self) -> Self {
        Self { n: self.n + 1, ..self }
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.n)
    }
}

/// The text is not `<digits>-<digits>`, or a number in it is above 2^64 - 1.
///
/// ```
/// use threadcast::{EventId, ParseIdError};
///
/// assert_eq!("41".parse::<EventId>(), Err(ParseIdError));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseIdError;

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event id of the server is written <digits>-<digits>")
    }
}

impl std::error::Error for ParseIdError {}

impl FromStr for EventId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let number = |part: &str| {
            let digits = part.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| part.parse().ok()).flatten().ok_or(ParseIdError)
        };
        let (epoch, n) = text.split_once('-').ok_or(ParseIdError)?;
        Ok(Self { epoch: number(epoch)?, n: number(n)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digits_and_one_dash_are_an_id() {
        for bad in ["", "7", "7-", "-7", "+7-1", "7-+1", "7-1-1", " 7-1", "18446744073709551616-1"]
        {
            assert_eq!(bad.parse::<EventId>(), Err(ParseIdError), "{bad:?}");
        }
        assert_eq!("0-18446744073709551615".parse(), Ok(EventId { epoch: 0, n: u64::MAX }));
    }
}
