//! The error responses of the protocol.

use super::super::error::HttpError;
use crate::durable::{
    AppendError, BodyError, CreateError, DeleteError, OffsetError, ProducerError, Unavailable,
};

/// The error for a request whose body would need more memory than all bodies may take, although the
/// streams are in a file.
pub(super) fn busy() -> HttpError {
    let detail = "the server is receiving as many bodies as its memory allows; retry in a moment";
    HttpError::new(503, detail).with("Retry-After", "1")
}

/// The error for a request that changes a stream, on a server that shares its store with others.
pub(super) fn shared() -> HttpError {
    let detail = "durable streams cannot be written while nodes share a Redis, because one node keeps \
                  them; start a server with --durable-streams and --store FILE";
    HttpError::new(501, detail)
}

/// The error for a request that needs more room than all streams may take.
pub(super) fn full() -> HttpError {
    let detail = "all durable streams together have reached their limit (--durable-total); delete \
                  some, or retry later";
    HttpError::new(507, detail)
}

impl From<Unavailable> for HttpError {
    fn from(reason: Unavailable) -> Self {
        match reason {
            Unavailable::Missing => {
                Self::new(404, "there is no such stream; PUT creates it. It may have expired")
            }
            Unavailable::SoftDeleted => {
                Self::new(410, "the stream was deleted; only its forks can still be read")
            }
        }
    }
}

impl From<DeleteError> for HttpError {
    fn from(error: DeleteError) -> Self {
        match error {
            DeleteError::Unavailable(reason) => reason.into(),
            DeleteError::Store(error) => error.into(),
        }
    }
}

impl From<OffsetError> for HttpError {
    fn from(error: OffsetError) -> Self {
        match error {
            OffsetError::Gone => {
                let detail = "the offset is that of an earlier stream with this name, which was \
                              deleted; read from offset=-1";
                Self::new(410, detail)
            }
            OffsetError::Unknown => {
                let detail = "the stream has no such offset; use one that the server has returned";
                Self::new(400, detail)
            }
            OffsetError::Store(error) => error.into(),
        }
    }
}

impl From<BodyError> for HttpError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Json(error) => Self::new(400, error.of("the body")),
            BodyError::Nothing => {
                Self::new(400, "the body is an empty array; send at least one message")
            }
            BodyError::LongMessage(limit) => {
                let detail = format!(
                    "a message is longer than {limit} bytes (--durable-message-limit); send less"
                );
                Self::new(413, detail)
            }
            BodyError::ManyMessages => {
                Self::new(413, "the body has more than 65,536 messages; send several requests")
            }
        }
    }
}

impl From<ProducerError> for HttpError {
    fn from(error: ProducerError) -> Self {
        match error {
            ProducerError::StaleEpoch { current } => {
                let detail = "another instance of this producer has a greater epoch; stop, or \
                              continue with a greater one";
                Self::new(403, detail).with("Producer-Epoch", current.to_string())
            }
            ProducerError::EpochStart => {
                Self::new(400, "a new epoch must begin with Producer-Seq 0")
            }
            ProducerError::Gap { expected, received } => {
                let detail = format!(
                    "Producer-Seq {expected} is the next one, not {received}; send the requests in \
                     order"
                );
                Self::new(409, detail)
                    .with("Producer-Expected-Seq", expected.to_string())
                    .with("Producer-Received-Seq", received.to_string())
            }
            ProducerError::Full => {
                let detail = "the stream has 1,000 producers; use the id of one of them, or another \
                              stream";
                Self::new(507, detail)
            }
        }
    }
}

impl From<AppendError> for HttpError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Unavailable(reason) => reason.into(),
            AppendError::Closed { next } => {
                Self::new(409, "the stream is closed; nothing can be appended")
                    .with("Stream-Closed", "true")
                    .with("Stream-Next-Offset", next.to_string())
            }
            AppendError::MediaType => {
                Self::new(409, "the Content-Type is not that of the stream; HEAD returns it")
            }
            AppendError::Producer(error) => error.into(),
            AppendError::Seq => {
                let detail = "Stream-Seq must be greater, byte by byte, than the last one of this \
                              stream";
                Self::new(409, detail)
            }
            AppendError::Body(error) => error.into(),
            AppendError::StreamFull { limit } => {
                let detail = format!(
                    "the stream would take more than {limit} bytes (--durable-stream-limit); \
                     continue in another stream"
                );
                Self::new(413, detail)
            }
            AppendError::Full => full(),
            AppendError::Store(error) => error.into(),
        }
    }
}

impl From<CreateError> for HttpError {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::SoftDeleted => {
                let detail = "a stream with this name was deleted, and has forks; delete them first, \
                              or use another name";
                Self::new(409, detail)
            }
            CreateError::Different(what) => {
                let detail =
                    format!("the stream exists with another {what}; use that, or another name");
                Self::new(409, detail)
            }
            CreateError::SourceMissing => {
                Self::new(404, "Stream-Forked-From names no stream; check its path")
            }
            CreateError::SourceSoftDeleted => {
                let detail = "the source was deleted, so it can have no new forks; fork one of its \
                              forks";
                Self::new(409, detail)
            }
            CreateError::SourceMediaType => {
                Self::new(409, "a fork has the Content-Type of its source; leave the header out")
            }
            CreateError::SourceOffset => {
                let detail = "the source has no such Stream-Fork-Offset; use one that the server has \
                              returned";
                Self::new(400, detail)
            }
            CreateError::SourcePart => {
                let detail = "Stream-Fork-Sub-Offset is greater than the append after the fork \
                              offset";
                Self::new(400, detail)
            }
            CreateError::ManyForks => {
                Self::new(400, "the source is the 64th fork in a row; fork an earlier one")
            }
            CreateError::Content(error) => error.into(),
            CreateError::ManyStreams => {
                let detail = "the server has as many durable streams as it may have \
                              (--durable-max); delete some";
                Self::new(507, detail)
            }
            CreateError::Store(error) => error.into(),
        }
    }
}
