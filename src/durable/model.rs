//! Compares the streams with a simple model, over random operations.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::offset::Start;
use super::stream::{Append, AppendError, Fork, Lifetime, Unavailable};
use super::{Create, CreateError, MediaType, Offset, Producer, Streams};
use crate::limits::DurableStreams;
use crate::store::Place;

/// Names are few, so that operations meet.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Debug, Clone)]
enum Operation {
    Create {
        name: usize,
        body: Vec<u8>,
    },
    Fork {
        name: usize,
        source: usize,
        at: prop::sample::Index,
        part: Option<prop::sample::Index>,
    },
    Append {
        name: usize,
        body: Vec<u8>,
        closes: bool,
    },
    /// Appends as a producer, `times` times.
    Produce {
        name: usize,
        body: Vec<u8>,
        times: usize,
    },
    Delete {
        name: usize,
    },
}

/// A stream of the model: all its bytes, and where its appends end.
#[derive(Debug, Clone, Default)]
struct Model {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    is_closed: bool,
    is_deleted: bool,
    source: Option<usize>,
    forks: usize,
    next_seq: u64,
    /// The offset of each position, as the server has reported it.
    offsets: BTreeMap<usize, Offset>,
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let name = || 0..NAMES.len();
    // Some bodies are longer than a piece of a log.
    let body = || {
        prop_oneof![
            9 => prop::collection::vec(any::<u8>(), 1..8),
            1 => (any::<u8>(), 60_000..140_000_usize).prop_map(|(byte, length)| vec![byte; length]),
        ]
    };
    let part = prop::option::of(any::<prop::sample::Index>());
    let one = prop_oneof![
        2 => (name(), body()).prop_map(|(name, body)| Operation::Create { name, body }),
        3 => (name(), name(), any::<prop::sample::Index>(), part)
            .prop_map(|(name, source, at, part)| Operation::Fork { name, source, at, part }),
        8 => (name(), body(), prop::bool::weighted(0.05))
            .prop_map(|(name, body, closes)| Operation::Append { name, body, closes }),
        3 => (name(), body(), 1..4_usize)
            .prop_map(|(name, body, times)| Operation::Produce { name, body, times }),
        2 => name().prop_map(|name| Operation::Delete { name }),
    ];
    prop::collection::vec(one, 1..60)
}

fn media() -> Option<MediaType> {
    MediaType::parse("application/octet-stream")
}

#[derive(Default)]
struct World {
    /// The streams that exist or are soft-deleted.
    streams: BTreeMap<usize, Model>,
    /// The offsets of streams that were removed, by name.
    old: Vec<(usize, Offset)>,
}

impl World {
    fn alive(&mut self, name: usize) -> Option<&mut Model> {
        self.streams.get_mut(&name).filter(|model| !model.is_deleted)
    }

    fn delete(&mut self, name: usize) {
        let mut name = name;
        loop {
            let model = self.streams.get_mut(&name).expect("it exists");
            model.is_deleted = true;
            if model.forks > 0 {
                return;
            }
            let model = self.streams.remove(&name).expect("it exists");
            self.old.extend(model.offsets.values().map(|offset| (name, *offset)));
            let Some(source) = model.source else { return };
            let model = self.streams.get_mut(&source).expect("a source exists");
            model.forks -= 1;
            if !model.is_deleted {
                return;
            }
            name = source;
        }
    }

    fn run(&mut self, streams: &Streams, operation: &Operation) {
        match operation {
            Operation::Create { name, body } => {
                let created = streams.create(NAMES[*name], create(None, body.clone()));
                match self.streams.get(name) {
                    None => {
                        assert!(created.expect("a free name").is_new);
                        let (bytes, ends) = (body.clone(), vec![body.len()]);
                        self.streams.insert(*name, Model { bytes, ends, ..Model::default() });
                    }
                    Some(model) if model.is_deleted => {
                        assert!(matches!(created, Err(CreateError::SoftDeleted)));
                    }
                    Some(model) if model.is_closed || model.source.is_some() => {
                        assert!(matches!(created, Err(CreateError::Different(_))));
                    }
                    Some(_) => assert!(!created.expect("an equal request").is_new),
                }
            }
            Operation::Fork { name, source, at, part } => {
                self.fork(streams, *name, *source, *at, *part);
            }
            Operation::Append { name, body, closes } => {
                let append = append(body.clone(), *closes, None);
                let appended = match streams.find(NAMES[*name]) {
                    Ok(stream) => stream.append(append),
                    Err(reason) => Err(AppendError::Unavailable(reason)),
                };
                match self.alive(*name) {
                    None => assert!(matches!(appended, Err(AppendError::Unavailable(_)))),
                    Some(model) if model.is_closed => {
                        assert!(matches!(appended, Err(AppendError::Closed { .. })));
                    }
                    Some(model) => {
                        model.append(body);
                        model.is_closed = *closes;
                        let appended = appended.expect("an open stream");
                        assert_eq!(appended.is_closed, *closes);
                        model.offsets.insert(model.bytes.len(), appended.next);
                    }
                }
            }
            Operation::Produce { name, body, times } => {
                let Some(model) = self.alive(*name).filter(|model| !model.is_closed) else {
                    return;
                };
                let stream = streams.find(NAMES[*name]).expect("it exists");
                let (epoch, seq) = (0, model.next_seq);
                for time in 0..*times {
                    let producer = Producer { id: "p".into(), epoch, seq };
                    let appended = stream.append(append(body.clone(), false, Some(producer)));
                    assert_eq!(appended.expect("an open stream").is_new, time == 0);
                }
                model.next_seq += 1;
                model.append(body);
            }
            Operation::Delete { name } => {
                let is_alive = self.alive(*name).is_some();
                assert_eq!(streams.delete(NAMES[*name]).is_ok(), is_alive);
                if is_alive {
                    self.delete(*name);
                }
            }
        }
    }

    fn fork(
        &mut self,
        streams: &Streams,
        name: usize,
        source: usize,
        at: prop::sample::Index,
        part: Option<prop::sample::Index>,
    ) {
        let Some(model) = self.alive(source).cloned() else { return };
        if self.streams.contains_key(&name) {
            return;
        }
        let at = at.index(model.bytes.len() + 1);
        let offset = streams.find(NAMES[source]).expect("it exists").offset_of(at as u64);
        // The part is at most one byte longer than the append after the offset.
        let next = model.ends.iter().find(|end| **end > at).map_or(0, |end| end - at);
        let part = part.map_or(0, |part| part.index(next + 2));
        let fork = Fork { source: NAMES[source].into(), offset: Some(offset), part: part as u64 };
        let created = streams.create(NAMES[name], create(Some(fork), Vec::new()));
        if part > next {
            return assert!(matches!(created, Err(CreateError::SourcePart)));
        }
        assert!(created.expect("a free name").is_new);
        let mut ends: Vec<usize> = model.ends.iter().copied().filter(|end| *end <= at).collect();
        if at > ends.last().copied().unwrap_or(0) {
            ends.push(at);
        }
        let mut fork = Model { ends, source: Some(source), ..Model::default() };
        fork.bytes = model.bytes[..at].to_vec();
        if part > 0 {
            fork.append(&model.bytes[at..at + part]);
        }
        fork.offsets = model.offsets.into_iter().filter(|(position, _)| *position <= at).collect();
        self.streams.insert(name, fork);
        self.streams.get_mut(&source).expect("it exists").forks += 1;
    }

    /// Compares every stream with the model.
    fn check(&self, streams: &Streams) {
        for (name, text) in NAMES.iter().enumerate() {
            let found = streams.find(text);
            let Some(model) = self.streams.get(&name) else {
                assert_eq!(found.unwrap_err(), Unavailable::Missing);
                continue;
            };
            if model.is_deleted {
                assert_eq!(found.unwrap_err(), Unavailable::SoftDeleted);
                continue;
            }
            let stream = found.expect("it exists");
            let status = stream.status();
            assert_eq!(
                (status.tail, status.is_closed),
                (model.bytes.len() as u64, model.is_closed)
            );
            let (mut bytes, mut at) = (Vec::new(), 0);
            while at < status.tail {
                let extent = stream.extent(at, 50_000).expect("it can be read");
                stream.copy(at..extent.end, &mut bytes).expect("it can be read");
                at = extent.end;
            }
            assert!(bytes == model.bytes, "the bytes of {text} differ");
            for (position, offset) in &model.offsets {
                let resolved = stream.resolve(Start::At(*offset));
                assert_eq!(resolved, Ok(*position as u64), "{text} {offset}");
            }
            // An old offset may be that of a source that is still inherited from; otherwise it is
            // an error.
            for (old, offset) in &self.old {
                if *old == name && !model.offsets.values().any(|own| own == offset) {
                    let resolved = stream.resolve(Start::At(*offset));
                    assert!(
                        resolved.is_err(),
                        "{text} has the offset {offset} of an earlier stream"
                    );
                }
            }
        }
        assert_eq!(streams.count().0, self.streams.len());
    }
}

impl Model {
    fn append(&mut self, body: &[u8]) {
        self.bytes.extend_from_slice(body);
        self.ends.push(self.bytes.len());
    }
}

fn create(fork: Option<Fork>, body: Vec<u8>) -> Create {
    Create { media: media(), lifetime: Lifetime::Unlimited, is_closed: false, fork, body }
}

fn append(body: Vec<u8>, closes: bool, producer: Option<Producer>) -> Append {
    Append { media: media(), body, closes, seq: None, producer }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn streams_equal_a_simple_model(operations in operations()) {
        let limits = Some(DurableStreams::default());
        let opened = Streams::open(limits, 1 << 30, &Place::Memory);
        let streams = opened.expect("memory").expect("limits");
        let mut world = World::default();
        for operation in &operations {
            world.run(&streams, operation);
            world.check(&streams);
        }
        for name in NAMES {
            let _ = streams.delete(name);
        }
        assert_eq!((streams.count().0, streams.room().0), (0, 0), "a stream was not freed");
    }
}

#[cfg(feature = "redb")]
mod stored {
    use super::*;
    use crate::durable::file::tests::{Disk, Node};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// The streams are in a file. The server is killed or stopped before some operations.
        #[test]
        fn stored_streams_equal_a_simple_model_over_restarts(
            operations in operations(),
            restarts in prop::collection::btree_map(0..60_usize, any::<bool>(), 0..6),
        ) {
            let mut node = Node::start(Disk::with_a_store());
            let mut world = World::default();
            for (number, operation) in operations.iter().enumerate() {
                match restarts.get(&number) {
                    Some(true) => node = Node::start(node.kill()),
                    Some(false) => node = Node::start(node.stop()),
                    None => {}
                }
                world.run(&node.streams, operation);
                world.check(&node.streams);
            }
            for name in NAMES {
                let _ = node.streams.delete(name);
            }
            let (count, room) = (node.streams.count().0, node.streams.room().0);
            prop_assert_eq!((count, room), (0, 0), "a stream was not freed");
            prop_assert_eq!(Node::start(node.stop()).streams.count().0, 0);
        }
    }
}
