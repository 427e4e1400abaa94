//! Reads lines, or the events of an event stream, from an input that may be slow.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Read};

use serde_json::json;

use super::error::ClientError;
use crate::decoder::Decoder;

/// The size of the read buffer, in bytes. While the publisher waits for a response, more lines
/// arrive; one read fills the buffer with them, and the publisher sends them as its next batch.
const READ_AHEAD: usize = 256 * 1024;

/// The maximum length of a line, in bytes. This limit bounds the memory of this program; the server
/// has its own limit on events.
const LINE_MAX: usize = 64 << 20;

/// One line without its line end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// The line number, starting at 1.
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

    /// Whether the next line is buffered, so that [`Lines::next`] does not block.
    pub(super) fn is_waiting(&self) -> bool {
        self.input.buffer().contains(&b'\n')
    }

    /// Returns the next line, or `None` at the end of the input. The last line needs no line end.
    ///
    /// Fails with [`ClientError::Line`] if the line is too long. The next call then returns the
    /// line after the long one.
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
            log::warn!(
                "line {} is not valid UTF-8; replaced the invalid bytes with U+FFFD",
                self.number
            );
            String::from_utf8_lossy(error.as_bytes()).into_owned()
        });
        Ok(Some(Line { number: self.number, text }))
    }
}

/// Reads the events of an event stream, each as the line of NDJSON that publishes it.
pub(super) struct StreamEvents<R> {
    input: BufReader<R>,
    decoder: Decoder,
    number: u64,
    /// Decoded events that have not been returned.
    ready: VecDeque<Result<Line, ClientError>>,
}

impl<R: Read> StreamEvents<R> {
    pub(super) fn new(input: R) -> Self {
        let input = BufReader::with_capacity(READ_AHEAD, input);
        Self { input, decoder: Decoder::with_limit(LINE_MAX), number: 0, ready: VecDeque::new() }
    }

    /// Whether the next event is decoded, so that [`StreamEvents::next`] does not block.
    pub(super) fn is_waiting(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Returns the next event, or `None` at the end of the input. An event that the end cuts off is
    /// left out.
    pub(super) fn next(&mut self) -> Result<Option<Line>, ClientError> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return ready.map(Some);
            }
            let read = match self.input.fill_buf() {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.map_err(ClientError::Input)?,
            };
            if read.is_empty() {
                return Ok(None);
            }
            let (length, mut bytes) = (read.len(), read);
            while !bytes.is_empty() {
                let Some(event) = self.decoder.next_event(&mut bytes).transpose() else { break };
                self.number += 1;
                let number = self.number;
                self.ready.push_back(match event {
                    Ok(event) => {
                        let mut line = json!({ "data": event.data });
                        if event.event != "message" {
                            line["event"] = event.event.into();
                        }
                        if let Some(id) = self.decoder.own_id() {
                            line["id"] = id.into();
                        }
                        if let Some(retry) = self.decoder.own_retry() {
                            line["retry"] =
                                u64::try_from(retry.as_millis()).unwrap_or(u64::MAX).into();
                        }
                        Ok(Line { number, text: line.to_string() })
                    }
                    Err(error) => Err(ClientError::Line { number, reason: error.to_string() }),
                });
            }
            self.input.consume(length);
        }
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
    fn line_ends_at_lf_or_crlf() {
        assert_eq!(texts(b""), [""; 0]);
        assert_eq!(texts(b"a\n\r\nb\r\n\n c\rd"), ["a", "", "b", "", " c\rd"]);
        assert_eq!(texts(b"a\r\r\nb\r"), ["a\r", "b\r"]);
        assert_eq!(texts(b"\xFF\n"), ["\u{fffd}"]);
    }

    #[test]
    fn event_stream_is_read_as_lines_of_ndjson() {
        let input = b"retry: 5\n\n: comment\nid: 1\nevent: e\nretry: 7\ndata: a\ndata: b\n\ndata: c\n\ndata: cut";
        let mut events = StreamEvents::new(&input[..]);
        let first = events.next().unwrap().unwrap();
        assert_eq!(first.text, r#"{"data":"a\nb","event":"e","id":"1","retry":7}"#);
        assert!(events.is_waiting());
        assert_eq!(
            events.next().unwrap().unwrap(),
            Line { number: 2, text: r#"{"data":"c"}"#.into() }
        );
        assert_eq!(events.next().unwrap(), None);
    }

    #[test]
    fn overlong_line_is_skipped_with_an_error() {
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
    fn endless_line_is_not_buffered() {
        let endless = std::io::repeat(b'x').take(1_000_000);
        let mut lines = Lines { longest: 8, ..Lines::new(endless) };
        assert!(lines.next().is_err());
        assert_eq!(lines.next().unwrap(), None);
    }
}
