//! Idempotent producers: which appends of a producer are new.

use std::collections::HashMap;

/// The maximum number of producers of one stream.
pub(super) const PRODUCERS_MAX: usize = 1_000;

/// The longest id of a producer, in bytes.
pub(crate) const PRODUCER_ID_MAX: usize = 256;

/// The room that a producer takes besides its id, in bytes.
pub(super) const PRODUCER: usize = 96;

/// What a request says of its producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Producer {
    pub(crate) id: Box<str>,
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
}

/// The producers of one stream, each with its epoch and its last sequence number.
#[derive(Debug, Default)]
pub(super) struct Producers(HashMap<Box<str>, (u64, u64)>);

/// Whether a request is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Novelty {
    New,
    /// It has been appended before. The number is the last sequence number of the producer.
    Duplicate(u64),
}

/// Why a producer's request is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProducerError {
    /// A later instance of the producer has this epoch.
    StaleEpoch { current: u64 },
    /// A new epoch must begin with sequence number 0.
    EpochStart,
    /// Sequence numbers are missing.
    Gap { expected: u64, received: u64 },
    /// The stream has [`PRODUCERS_MAX`] producers.
    Full,
}

/// What is known of a producer before its request.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    /// Its epoch and its last sequence number.
    pub(super) last: Option<(u64, u64)>,
    /// The number of producers of the stream.
    pub(super) count: usize,
}

impl Known {
    /// Decides whether a request is new.
    pub(super) fn check(&self, request: &Producer) -> Result<Novelty, ProducerError> {
        let (epoch, seq) = (request.epoch, request.seq);
        match self.last {
            None if seq != 0 => Err(ProducerError::Gap { expected: 0, received: seq }),
            None if self.count >= PRODUCERS_MAX => Err(ProducerError::Full),
            None => Ok(Novelty::New),
            Some((current, _)) if epoch < current => Err(ProducerError::StaleEpoch { current }),
            Some((current, _)) if epoch > current => {
                if seq == 0 {
                    Ok(Novelty::New)
                } else {
                    Err(ProducerError::EpochStart)
                }
            }
            Some((_, last)) if seq <= last => Ok(Novelty::Duplicate(last)),
            Some((_, last)) if seq == last + 1 => Ok(Novelty::New),
            Some((_, last)) => Err(ProducerError::Gap { expected: last + 1, received: seq }),
        }
    }

    /// The room that accepting this request would take, in bytes.
    pub(super) fn cost(&self, request: &Producer) -> usize {
        if self.last.is_some() { 0 } else { PRODUCER + request.id.len() }
    }
}

impl Producers {
    /// Returns what is known of the producer with this id.
    pub(super) fn known(&self, id: &str) -> Known {
        Known { last: self.0.get(id).copied(), count: self.0.len() }
    }

    /// Records a request that [`check`](Known::check) has found to be new.
    pub(super) fn accept(&mut self, request: &Producer) {
        self.0.insert(request.id.clone(), (request.epoch, request.seq));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: &str, epoch: u64, seq: u64) -> Producer {
        Producer { id: id.into(), epoch, seq }
    }

    #[test]
    fn requests_are_judged_as_the_protocol_says() {
        let mut producers = Producers::default();
        producers.accept(&request("a", 5, 0));
        producers.accept(&request("a", 5, 7));
        let gap = |expected, received| Err(ProducerError::Gap { expected, received });
        for (id, epoch, seq, expected) in [
            ("b", 3, 0, Ok(Novelty::New)),
            ("b", 3, 1, gap(0, 1)),
            ("a", 4, 8, Err(ProducerError::StaleEpoch { current: 5 })),
            ("a", 6, 1, Err(ProducerError::EpochStart)),
            ("a", 6, 0, Ok(Novelty::New)),
            ("a", 5, 7, Ok(Novelty::Duplicate(7))),
            ("a", 5, 0, Ok(Novelty::Duplicate(7))),
            ("a", 5, 8, Ok(Novelty::New)),
            ("a", 5, 10, gap(8, 10)),
        ] {
            assert_eq!(
                producers.known(id).check(&request(id, epoch, seq)),
                expected,
                "{id} {epoch} {seq}"
            );
        }
    }

    #[test]
    fn producers_of_a_stream_are_bounded() {
        let mut producers = Producers::default();
        (0..PRODUCERS_MAX).for_each(|n| producers.accept(&request(&n.to_string(), 0, 0)));
        let check = |id, seq| producers.known(id).check(&request(id, 0, seq));
        assert_eq!(check("new", 0), Err(ProducerError::Full));
        assert_eq!(check("7", 1), Ok(Novelty::New));
    }
}
