//! Reads the body of a request that changes a stream.

use super::error;
use crate::durable::{Reserved, Streams};
use crate::http::body::Limit;
use crate::http::error::HttpError;
use crate::http::exchange::Exchange;

/// Reads the body. The memory stays reserved until the returned reservation is dropped.
pub(super) fn body(
    exchange: &mut Exchange<'_>,
    streams: &Streams,
) -> Result<(Vec<u8>, Reserved), HttpError> {
    let limit = Limit { bytes: streams.limits().body, set_by: "--durable-body-limit" };
    let mut reserved = streams.reserve();
    let full = if streams.are_in_file() { error::busy } else { error::full };
    let body =
        exchange.body_to_end(limit, &mut |bytes| reserved.grow(bytes).map_err(|_| full()))?;
    Ok((body, reserved))
}
