//! Event ids: positions in the order of all events.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// An event's id: its position in the order of all events of one server.
///
/// An id is written `<epoch>-<n>`. `n` counts all events of the server. The epoch changes when the
/// history begins again, so that the server recognizes a cursor from before a restart. If Redis
/// assigns the ids, the epoch is Redis' clock in milliseconds, and `n` distinguishes the events of
/// one millisecond.
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
    /// The history that the event belongs to.
    pub epoch: u64,
    /// The event's number in the history of that epoch.
    pub n: u64,
}

impl EventId {
    /// The smallest id.
    pub const ZERO: Self = Self { epoch: 0, n: 0 };

    /// Returns the next id. It has the same epoch, unless `n` overflows.
    #[must_use]
    pub(crate) fn next(self) -> Self {
        match self.n.checked_add(1) {
            Some(n) => Self { n, ..self },
            None => Self { epoch: self.epoch.saturating_add(1), n: 0 },
        }
    }

    /// Returns the greatest id below this one. For [`ZERO`](Self::ZERO), below which there is no
    /// id, returns `ZERO`.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a server event id has the form <digits>-<digits>, each below 2^64")]
pub struct ParseIdError;

impl FromStr for EventId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let number = |part: &str| {
            // `parse` alone would accept a plus sign.
            if !part.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(ParseIdError);
            }
            part.parse().map_err(|_| ParseIdError)
        };
        let (epoch, n) = text.split_once('-').ok_or(ParseIdError)?;
        Ok(Self { epoch: number(epoch)?, n: number(n)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_and_before_are_inverse() {
        for id in [(7, 0), (7, 1), (7, u64::MAX)].map(|(epoch, n)| EventId { epoch, n }) {
            assert_eq!((id.next().before(), id.before().next()), (id, id));
        }
        assert_eq!(EventId::ZERO.before(), EventId::ZERO);
    }

    #[test]
    fn malformed_ids_are_rejected() {
        for bad in ["", "7", "7-", "-7", "+7-1", "7-+1", "7-1-1", " 7-1", "18446744073709551616-1"]
        {
            assert_eq!(bad.parse::<EventId>(), Err(ParseIdError), "{bad:?}");
        }
        assert_eq!("0-18446744073709551615".parse(), Ok(EventId { epoch: 0, n: u64::MAX }));
    }
}
