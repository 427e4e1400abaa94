//! Offsets: the positions in a stream that the protocol's clients send and receive.
//!
//! An offset is two numbers of 16 digits: the *incarnation* of the stream, and a count of bytes. Each
//! created stream has an incarnation that is greater than those of all streams before it. So an
//! offset of a deleted stream never names a position of the stream that has its name now.

use std::fmt;
use std::str::FromStr;

/// The number of digits of each part.
const DIGITS: usize = 16;

/// A position in a stream, as clients see it.
///
/// Offsets of one stream sort in the order of its bytes, as numbers and as texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Offset {
    pub(super) incarnation: u64,
    pub(super) byte: u64,
}

impl Offset {
    /// The offset before the first byte of every stream.
    pub(super) const START: Self = Self { incarnation: 0, byte: 0 };
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016}_{:016}", self.incarnation, self.byte)
    }
}

/// The error for a text that is not an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ParseOffsetError;

impl FromStr for Offset {
    type Err = ParseOffsetError;

    /// Parses only the form that [`Display`](fmt::Display) writes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (incarnation, byte) = text.split_once('_').ok_or(ParseOffsetError)?;
        let part = |part: &str| {
            let is_well_formed =
                part.len() == DIGITS && part.bytes().all(|byte| byte.is_ascii_digit());
            is_well_formed.then(|| part.parse().ok()).flatten().ok_or(ParseOffsetError)
        };
        Ok(Self { incarnation: part(incarnation)?, byte: part(byte)? })
    }
}

/// Where a read begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// Before the first byte: `-1`.
    Beginning,
    /// After the last byte: `now`.
    Now,
    /// At an offset.
    At(Offset),
}

impl FromStr for Start {
    type Err = ParseOffsetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "-1" => Ok(Self::Beginning),
            "now" => Ok(Self::Now),
            offset => offset.parse().map(Self::At),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The greatest number of each part.
    const PART_MAX: u64 = 9_999_999_999_999_999;

    proptest! {
        #[test]
        fn offsets_sort_as_numbers_and_as_texts(
            a in (0..=PART_MAX, 0..=PART_MAX), b in (0..=PART_MAX, 0..=PART_MAX)
        ) {
            let [a, b] = [a, b].map(|(incarnation, byte)| Offset { incarnation, byte });
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
            prop_assert_eq!(a.to_string().parse(), Ok(a));
        }

        #[test]
        fn only_the_exact_form_is_an_offset(text in "[-0-9_, /.\\x00\r\n]{0,40}") {
            let is_offset = text.len() == 33
                && text.split('_').count() == 2
                && text.split('_').all(|part| {
                    part.len() == 16 && part.bytes().all(|byte| byte.is_ascii_digit())
                });
            prop_assert_eq!(text.parse::<Offset>().is_ok(), is_offset);
        }
    }

    #[test]
    fn start_is_an_offset_or_one_of_two_words() {
        assert_eq!("-1".parse(), Ok(Start::Beginning));
        assert_eq!("now".parse(), Ok(Start::Now));
        let start = "0000000000000000_0000000000000000";
        assert_eq!(start.parse(), Ok(Start::At(Offset::START)));
        for bad in ["", "0", "NOW", "-2", "-1 ", "+000000000000000_0000000000000000"] {
            assert!(bad.parse::<Start>().is_err(), "{bad}");
        }
    }
}
