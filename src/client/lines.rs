//! Lines of an input that may be slow, as they come.

use std::io::{BufRead, BufReader, Read};

use super::ClientError;

/// How much is read ahead: what comes while a batch is on its way becomes the next.
const READ_AHEAD: usize = 256 * 1024;

/// The longest line, in bytes; no server takes an event as long as this.
const LINE_MAX: usize = 1 << 20;

/// One line, without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: u64,
    pub(super) text: String,
}

pub(super) struct Lines<R> {
    input: BufReader<R>,
    number: u64,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input: BufReader::with_capacity(READ_AHEAD, input), number: 0 }
    }

    /// Whether the next line is here already, so that asking for it does not wait.
    pub(super) fn is_waiting(&self) -> bool {
        self.input.buffer().contains(&b'\n')
    }

    /// The next line; `None` at the end. What the last line lacks is its end only.
    pub(super) fn next(&mut self) -> Result<Option<Line>, ClientError> {
        let mut line = Vec::new();
        self.number += 1;
        let room = u64::try_from(LINE_MAX + 2).expect("a small number");
        let input = self.input.by_ref();
        input.take(room).read_until(b'\n', &mut line).map_err(ClientError::Input)?;
        if line.is_empty() {
            return Ok(None);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
            line.pop_if(|byte| *byte == b'\r');
        }
        if line.len() > LINE_MAX {
            let reason = format!("has more than {LINE_MAX} bytes");
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
    fn a_line_without_end_is_an_error_and_not_memory() {
        let error = Lines::new(std::io::repeat(b'x')).next().unwrap_err();
        assert_eq!(error.to_string(), format!("line 1 has more than {LINE_MAX} bytes"));
        let fits = [vec![b'x'; LINE_MAX], b"\r\n".to_vec()].concat();
        assert_eq!(texts(&fits), ["x".repeat(LINE_MAX)]);
    }
}
