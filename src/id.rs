//! The name of a place in the order of all events.

use std::fmt;
use std::str::FromStr;

/// An event's id, and a place in the order of all events of one server.
///
/// It is written `<epoch>-<n>`: `n` counts over the whole server, and the epoch
/// tells one life of its history from another, so that a cursor from before a
/// restart is known to be one. Where Redis gives the ids, the epoch is its clock in
/// milliseconds, and `n` tells those of one millisecond apart.
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

    /// The next id: of the same epoch, unless that is used up.
    #[must_use]
    pub fn next(self) -> Self {
        match self.n.checked_add(1) {
            Some(n) => Self { n, ..self },
            None => Self { epoch: self.epoch.saturating_add(1), n: 0 },
        }
    }

    /// The id that no other stands between and this one.
    pub(crate) fn before(self) -> Self {
        match (self.epoch, self.n.checked_sub(1)) {
            (_, Some(n)) => Self { n, ..self },
            (0, None) => self,
            (epoch, None) => Self { epoch: epoch - 1, n: u64::MAX },
        }
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
    fn nothing_stands_between_an_id_and_the_next() {
        for id in [(7, 0), (7, 1), (7, u64::MAX)].map(|(epoch, n)| EventId { epoch, n }) {
            assert_eq!((id.next().before(), id.before().next()), (id, id));
        }
        assert_eq!(EventId::ZERO.before(), EventId::ZERO);
    }

    #[test]
    fn only_digits_and_one_dash_are_an_id() {
        for bad in ["", "7", "7-", "-7", "+7-1", "7-+1", "7-1-1", " 7-1", "18446744073709551616-1"]
        {
            assert_eq!(bad.parse::<EventId>(), Err(ParseIdError), "{bad:?}");
        }
        assert_eq!("0-18446744073709551615".parse(), Ok(EventId { epoch: 0, n: u64::MAX }));
    }
}
