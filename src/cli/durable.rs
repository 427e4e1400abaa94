//! The options of the Durable Streams protocol.

use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use clap::builder::BoolishValueParser;
use threadcast::DurableStreams;

use super::values::bytes;

/// The options that bound durable streams, for `serve` and `doctor`.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_field_names, reason = "clap derives the flags from the names")]
#[command(next_help_heading = "Durable streams")]
pub(super) struct Durable {
    /// Serve the Durable Streams protocol below /v1/stream/; streams are in memory, or in the store's file
    #[arg(long, env = "THREADCAST_DURABLE_STREAMS", value_parser = BoolishValueParser::new())]
    durable_streams: bool,

    /// Limit the number of durable streams
    #[arg(long, value_name = "COUNT", env = "THREADCAST_DURABLE_MAX", default_value_t = 10_000)]
    durable_max: usize,

    /// Limit the size of each durable stream, in memory or in the store's file
    #[arg(long, value_name = "SIZE", env = "THREADCAST_DURABLE_STREAM_LIMIT")]
    #[arg(default_value = "64MiB")]
    durable_stream_limit: ByteSize,

    /// Limit the size of all durable streams together, in memory or in the store's file
    ///
    /// The default is 256MiB, or a quarter of the memory that is available to the server if that is
    /// less.
    #[arg(long, value_name = "SIZE", env = "THREADCAST_DURABLE_TOTAL")]
    durable_total: Option<ByteSize>,

    /// Reject a request whose body for a durable stream is longer than this
    #[arg(long, value_name = "SIZE", env = "THREADCAST_DURABLE_BODY_LIMIT")]
    #[arg(default_value = "16MiB")]
    durable_body_limit: ByteSize,

    /// Reject a JSON message that is longer than this
    #[arg(long, value_name = "SIZE", env = "THREADCAST_DURABLE_MESSAGE_LIMIT")]
    #[arg(default_value = "128KiB")]
    durable_message_limit: ByteSize,
}

impl Durable {
    /// Returns the limits of durable streams, if the server has any. `long_poll` is how long a
    /// long-poll request waits.
    pub(super) fn limits(&self, long_poll: Duration) -> Option<DurableStreams> {
        self.durable_streams.then(|| DurableStreams {
            streams: self.durable_max,
            stream: bytes(self.durable_stream_limit),
            total: self.durable_total.map(bytes),
            body: bytes(self.durable_body_limit),
            message: bytes(self.durable_message_limit),
            long_poll,
        })
    }
}
