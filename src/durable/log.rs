//! The bytes of a stream, and where its appends end.

use std::ops::Range;
use std::sync::Arc;

use super::messages::Messages;

/// The size, in bytes, from which a piece is not extended any more.
const PIECE: usize = 64 * 1024;

/// The memory that each boundary takes, in bytes.
pub(super) const BOUNDARY: usize = size_of::<Boundary>();

/// A log of bytes that only grows. Its first byte has the number `start`.
#[derive(Debug)]
pub(super) struct Log {
    start: u64,
    /// The first byte of each full piece, with the piece. Readers share full pieces.
    full: Vec<(u64, Arc<Vec<u8>>)>,
    /// The bytes after the full pieces.
    open: Vec<u8>,
    boundaries: Vec<Boundary>,
}

/// The end of a message. The highest bit says whether an append ends there too.
#[derive(Debug, Clone, Copy)]
pub(super) struct Boundary(u64);

const ENDS_APPEND: u64 = 1 << 63;

impl Boundary {
    pub(super) fn new(at: u64, ends_append: bool) -> Self {
        Self(if ends_append { at | ENDS_APPEND } else { at })
    }

    pub(super) fn at(self) -> u64 {
        self.0 & !ENDS_APPEND
    }

    pub(super) fn ends_append(self) -> bool {
        self.0 & ENDS_APPEND != 0
    }
}

/// A part of a log: bytes that are shared with it, unless they were not a full piece, and which of them.
pub(crate) type Part = (Arc<Vec<u8>>, Range<usize>);

/// Why a fork cannot begin inside an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PartialAppendError;

impl Log {
    pub(super) fn new(start: u64) -> Self {
        Self { start, full: Vec::new(), open: Vec::new(), boundaries: Vec::new() }
    }

    /// The position of the first byte.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    fn open_start(&self) -> u64 {
        self.full.last().map_or(self.start, |(start, piece)| start + piece.len() as u64)
    }

    /// The position after the last byte.
    pub(super) fn end(&self) -> u64 {
        self.open_start() + self.open.len() as u64
    }

    /// Appends one batch. Readers see it as a whole.
    pub(super) fn append(&mut self, messages: Messages) {
        let Messages { mut bytes, ends } = messages;
        let start = self.end();
        reserve(&mut self.boundaries, ends.len());
        self.boundaries.extend(ends.iter().map(|end| Boundary(start + *end as u64)));
        if let (Some(last), false) = (self.boundaries.last_mut(), ends.is_empty()) {
            last.0 |= ENDS_APPEND;
        }
        if bytes.len() >= PIECE {
            self.seal();
            bytes.shrink_to_fit(); // the buffer of a body may be much longer
            self.full.push((start, Arc::new(bytes)));
        } else {
            reserve(&mut self.open, bytes.len());
            self.open.extend_from_slice(&bytes);
            if self.open.len() >= PIECE {
                self.seal();
            }
        }
    }

    /// Makes the open bytes a full piece.
    fn seal(&mut self) {
        if !self.open.is_empty() {
            let start = self.open_start();
            let mut piece = std::mem::take(&mut self.open);
            piece.shrink_to_fit();
            self.full.push((start, Arc::new(piece)));
        }
    }

    /// Returns the bytes of a range, which must be inside the log.
    pub(super) fn slice(&self, range: Range<u64>) -> Vec<Part> {
        let mut parts = Vec::new();
        let first =
            self.full.partition_point(|(start, piece)| start + piece.len() as u64 <= range.start);
        for (start, piece) in &self.full[first..] {
            if *start >= range.end {
                return parts;
            }
            parts.push((Arc::clone(piece), part(&range, *start, piece.len())));
        }
        let copied = self.open[part(&range, self.open_start(), self.open.len())].to_vec();
        let length = copied.len();
        parts.push((Arc::new(copied), 0..length));
        parts
    }

    /// Whether a message ends at this position, or none begins before it.
    pub(super) fn is_boundary(&self, at: u64) -> bool {
        at == self.start || self.boundaries.binary_search_by_key(&at, |end| end.at()).is_ok()
    }

    /// Returns the last end of a message in the range, or the end of the first message in it if that
    /// is longer.
    pub(super) fn whole_messages(&self, range: &Range<u64>) -> u64 {
        let after = self.boundaries.partition_point(|end| end.at() <= range.end);
        match after.checked_sub(1).map(|last| self.boundaries[last].at()) {
            Some(end) if end > range.start => end,
            _ => self.boundaries.get(after).map_or(range.end, |end| end.at()),
        }
    }

    /// Returns the boundaries of the append that begins at or contains `from`.
    pub(super) fn append_after(&self, from: u64) -> &[Boundary] {
        let next = self.boundaries.partition_point(|end| end.at() <= from);
        let append = &self.boundaries[next..];
        let length = append.iter().position(|end| end.ends_append()).map_or(0, |last| last + 1);
        &append[..length]
    }
}

/// Returns where the first `count` messages, or bytes, of an append end, counted from `from`. Fails if
/// the append, up to `upto`, has fewer.
pub(super) fn partial(
    append: &[Boundary],
    from: u64,
    upto: u64,
    count: u64,
    is_json: bool,
) -> Result<Vec<usize>, PartialAppendError> {
    let last = append.last().ok_or(PartialAppendError)?;
    let count = usize::try_from(count).map_err(|_| PartialAppendError)?;
    let ends: Vec<usize> = if is_json {
        let ends = append.get(..count).ok_or(PartialAppendError)?;
        ends.iter().map(|end| usize::try_from(end.at() - from).unwrap_or(usize::MAX)).collect()
    } else {
        vec![count]
    };
    let end = from.saturating_add(ends.last().map_or(0, |end| *end as u64));
    if end > upto.min(last.at()) {
        return Err(PartialAppendError);
    }
    Ok(ends)
}

/// Makes room for `more` elements. Grows by a quarter, so that no more memory than that is unused.
fn reserve<T>(vec: &mut Vec<T>, more: usize) {
    if vec.capacity() - vec.len() < more {
        vec.reserve_exact(more.max(vec.len() / 4));
    }
}

/// Returns which bytes of a piece are in the range.
fn part(range: &Range<u64>, start: u64, length: usize) -> Range<usize> {
    let within =
        |at: u64| usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX).min(length);
    within(range.start)..within(range.end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn messages(bytes: Vec<u8>) -> Messages {
        let ends = vec![bytes.len()];
        Messages { bytes, ends }
    }

    fn read(log: &Log, range: Range<u64>) -> Vec<u8> {
        log.slice(range).iter().flat_map(|(bytes, part)| &bytes[part.clone()]).copied().collect()
    }

    proptest! {
        #[test]
        fn slices_equal_those_of_one_long_text(
            start in 0..1_000_u64,
            lengths in prop::collection::vec(prop_oneof![1..100_usize, 60_000..140_000_usize], 1..12),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 8),
        ) {
            let (mut log, mut all) = (Log::new(start), Vec::new());
            for (number, length) in lengths.into_iter().enumerate() {
                let bytes = vec![u8::try_from(number).unwrap(); length];
                all.extend_from_slice(&bytes);
                log.append(messages(bytes));
                prop_assert!(log.is_boundary(log.end()));
            }
            prop_assert_eq!(log.end(), start + all.len() as u64);
            for two in cuts.chunks(2) {
                let mut cut = [two[0].index(all.len() + 1), two[1].index(all.len() + 1)];
                cut.sort_unstable();
                let range = start + cut[0] as u64..start + cut[1] as u64;
                prop_assert!(read(&log, range) == all[cut[0]..cut[1]]);
            }
        }
    }

    #[test]
    fn unused_memory_of_a_log_is_bounded() {
        let mut log = Log::new(0);
        let mut padded = Vec::with_capacity(10 * PIECE);
        padded.resize(PIECE, 0);
        log.append(messages(padded));
        (0..1_000).for_each(|_| log.append(messages(vec![0; 50])));
        let full: usize = log.full.iter().map(|(_, piece)| piece.capacity()).sum();
        assert_eq!(full, PIECE);
        assert!(log.open.capacity() <= 50_000 * 5 / 4 + 50, "{}", log.open.capacity());
        assert!(log.boundaries.capacity() <= 1_001 * 5 / 4 + 1, "{}", log.boundaries.capacity());
    }

    #[test]
    fn read_ends_with_a_whole_message() {
        let mut log = Log::new(0);
        log.append(Messages { bytes: b"1,22,".into(), ends: vec![2, 5] });
        log.append(Messages { bytes: b"333,".into(), ends: vec![4] });
        assert_eq!(log.whole_messages(&(0..8)), 5);
        assert_eq!(log.whole_messages(&(0..9)), 9);
        assert_eq!(log.whole_messages(&(5..6)), 9, "a message that is longer than the limit");
        assert_eq!(log.whole_messages(&(2..4)), 5);
        assert!(log.is_boundary(0) && log.is_boundary(2) && !log.is_boundary(3));
    }

    #[test]
    fn part_of_an_append_ends_with_that_append() {
        let mut log = Log::new(10);
        log.append(Messages { bytes: b"1,22,".into(), ends: vec![2, 5] });
        log.append(Messages { bytes: b"333,".into(), ends: vec![4] });
        let part = |from: u64, upto, count, is_json| {
            let ends = partial(log.append_after(from), from, upto, count, is_json)?;
            Ok(read(&log, from..from + ends.last().copied().unwrap_or(0) as u64))
        };
        let json = |from, count| part(from, log.end(), count, true);
        assert_eq!(json(10, 1), Ok(b"1,".into()));
        assert_eq!(json(10, 2), Ok(b"1,22,".into()));
        assert_eq!(json(10, 3), Err(PartialAppendError));
        assert_eq!(json(15, 1), Ok(b"333,".into()));
        assert_eq!(json(19, 1), Err(PartialAppendError));
        let bytes = |from, upto, count| part(from, upto, count, false);
        assert_eq!(bytes(11, 19, 4), Ok(b",22,".into()));
        assert_eq!(bytes(11, 19, 5), Err(PartialAppendError));
        assert_eq!(bytes(11, 13, 3), Err(PartialAppendError), "beyond the inherited part");
        assert_eq!(bytes(11, 19, u64::MAX), Err(PartialAppendError));
    }
}
