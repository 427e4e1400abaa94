//! Lines of an input that may be slow, as they come.

use std::io::{BufRead, BufReader, Read};

use super::ClientError;

/// How much is read ahead: what comes while a batch is on its way becomes the next.
const READ_AHEAD: usize = 256 * 1024;

/// The longest line, in bytes: what this program holds in memory. Which events are too long is for
/// the server to say.
const LINE_MAX: usize = 64 << 20;

/// One line, without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: u64,
    pub(super) text: String,
}

pub(super) struct Lines<R> {
    input: BufReader<R>,
    /// The longest line, in bytes.
    longest: usize,
    number: u64,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input: BufReader::with_capacity(READ_AHEAD, input), longest: LINE_MAX, number: 0 }
    }

    /// Whether the next line is here already, so that asking for it does not wait.
    pub(super) fn is_waiting(&self) -> bool {
        self.input.buffer().contains(&b'\n')
    }

    /// The next line; `None` at the end. What the last line lacks is its end only.
    ///
    /// Fails with [`ClientError::Line`] for a line that is too long, which is passed over: the next
    /// call gives the line after it.
    pub(super) fn next(&mut self) -> Result<Option<Line>, ClientError> {
        let mut line = Vec::new();
        self.number += 1;
        let room = u64::try_from(self.longest + 2).unwrap_or(u64::MAX);
        let input = self.input.by_ref();
        input.take(room).read_until(b'\n', &mut line).map_err(ClientError::Input)?;
        if line.is_empty() {
            return Ok(None);
        }
        let has_ended = line.last() == Some(&b'\n');
        if has_ended {
            line.pop();
            line.pop_if(|byte| *byte == b'\r');
        }
        if line.len() > self.longest {
            if !has_ended {
                self.input.skip_until(b'\n').map_err(ClientError::Input)?;
            }
            let reason = format!("has more than {} bytes", self.longest);
            return Err(ClientError::Line { number: self.number, reason });
        }
        let text = String::from_utf8(line).unwrap_or_else(|error| {
            log::warn!("line {} is not UTF-8; what is wrong in it is replaced", self.number);
            String::from_utf8_lossy(error.as_bytes()).into_owned()
        });
        Ok(Some(Line { number: self.number, text }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(input: &[u8]) -> Vec<String> {
        let mut lines = Lines::new(input);
        std::iter::from_fn(|| lines.next().unwrap().map(|line| line.text)).collect()
    }

    #[test]
    fn a_line_is_what_stands_before_its_end() {
        assert_eq!(texts(b""), [""; 0]);
        assert_eq!(texts(b"a\n\r\nb\r\n\n c\rd"), ["a", "", "b", "", " c\rd"]);
        assert_eq!(texts(b"a\r\r\nb\r"), ["a\r", "b\r"]);
        assert_eq!(texts(b"\xFF\n"), ["\u{fffd}"]);
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over() {
        for end in ["\n", "\r\n"] {
            let input = format!("short{end}much too long{end}fits{end}just now");
            let mut lines = Lines { longest: 8, ..Lines::new(input.as_bytes()) };
            assert_eq!(lines.next().unwrap().unwrap().text, "short");
            assert_eq!(lines.next().unwrap_err().to_string(), "line 2 has more than 8 bytes");
            assert_eq!(lines.next().unwrap().unwrap(), Line { number: 3, text: "fits".into() });
            assert_eq!(lines.next().unwrap().unwrap().text, "just now");
            assert_eq!(lines.next().unwrap(), None);
        }
    }

    #[test]
    fn a_line_without_end_is_no_memory() {
        let endless = std::io::repeat(b'x').take(1_000_000);
        let mut lines = Lines { longest: 8, ..Lines::new(endless) };
        assert!(lines.next().is_err());
        assert_eq!(lines.next().unwrap(), None);
    }
}
