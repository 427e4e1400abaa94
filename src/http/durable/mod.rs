//! Serves the Durable Streams protocol below `/v1/stream/`.
//!
//! The streams themselves are in [`crate::durable`]; this module has what depends on HTTP. Without
//! `--durable-streams`, the paths return 404, and the response names the flag. A stream's name is also
//! its topic for JWTs.

mod append;
mod body;
mod chunk;
mod create;
mod error;
mod headers;
mod long_poll;
mod read;
mod sse;

use std::sync::Arc;

use super::access::{Api, PublishAccess, ReadAccess, count_published};
use super::answer::BrowserHeaders;
use super::config::Config;
use super::error::HttpError;
use super::exchange::Exchange;
use super::reply::Reply;
use super::route::{Requirement, Route};
use crate::durable::Streams;
use crate::registry::NAME_MAX;

/// The first segment of names that the protocol reserves.
const RESERVED: &str = "__ds";

const BROWSER: BrowserHeaders = BrowserHeaders {
    always: &[
        ("X-Content-Type-Options", "nosniff"),
        ("Cross-Origin-Resource-Policy", "cross-origin"),
    ],
    allowed: "If-None-Match, Producer-Epoch, Producer-Id, Producer-Seq, Stream-Closed, \
              Stream-Expires-At, Stream-Fork-Offset, Stream-Fork-Sub-Offset, Stream-Forked-From, \
              Stream-Seq, Stream-TTL",
    exposed: "ETag, Location, Producer-Epoch, Producer-Expected-Seq, Producer-Received-Seq, \
              Producer-Seq, Retry-After, Stream-Closed, Stream-Cursor, Stream-Expires-At, \
              Stream-Next-Offset, Stream-SSE-Data-Encoding, Stream-TTL, Stream-Up-To-Date",
};

/// Returns the routes of the protocol.
pub(super) fn routes(config: &Config) -> Vec<Route> {
    let on = Requirement {
        flags: &["--durable-streams"],
        is_met: config.durable_streams.is_some(),
        detail: "durable streams are off; start the server with --durable-streams",
    };
    let path = "/v1/stream/NAME*";
    let routes = [
        Route::on("GET", path, |it, path| {
            let (streams, name, access) = reader(it, path)?;
            read::read(it, &access, &streams, &name)
        }),
        Route::on("HEAD", path, |it, path| {
            let (streams, name, _) = reader(it, path)?;
            read::head(&streams, &name).map(Reply::Answer)
        }),
        Route::on("PUT", path, |it, path| {
            let (streams, name) = writer(it, path)?;
            create::create(it, &streams, &name).map(Reply::Answer)
        }),
        Route::on("POST", path, |it, path| {
            let (streams, name) = writer(it, path)?;
            append::append(it, &streams, &name).map(Reply::Answer)
        }),
        Route::on("DELETE", path, |it, path| {
            let (streams, name) = writer(it, path)?;
            create::delete(&streams, &name).map(Reply::Answer)
        }),
    ];
    routes.into_iter().map(|route| route.needs(on).for_browsers(&BROWSER)).collect()
}

/// Returns the streams, the name and the rights of a request that may read the stream.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
fn reader(
    exchange: &Exchange<'_>,
    path: &[&str],
) -> Result<(Arc<Streams>, String, ReadAccess), HttpError> {
    let access = ReadAccess::of(exchange, Api::Own)?;
    let name = name(path)?;
    access.check_topic(exchange, &name)?;
    Ok((streams(exchange)?, name, access))
}

/// Returns the streams and the name of a request that may change the stream.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
fn writer(exchange: &Exchange<'_>, path: &[&str]) -> Result<(Arc<Streams>, String), HttpError> {
    let access = PublishAccess::of(exchange, Api::Own)?;
    let name = name(path)?;
    access.check(exchange, [&*name])?;
    let streams = streams(exchange)?;
    if !streams.are_writable() {
        return Err(error::shared());
    }
    count_published(exchange, Api::Own, 1)?;
    Ok((streams, name))
}

fn streams(exchange: &Exchange<'_>) -> Result<Arc<Streams>, HttpError> {
    // The route exists only if the server has streams.
    let streams = exchange.server.durable.clone();
    streams.ok_or_else(|| HttpError::new(404, "this server has no durable streams"))
}

/// Returns the name in a path's segments.
fn name(path: &[&str]) -> Result<String, HttpError> {
    if path.first() == Some(&RESERVED) {
        let detail = "names that begin with __ds/ are reserved for subscriptions, which this server \
                      does not offer; use another name";
        return Err(HttpError::new(501, detail));
    }
    let name = path.join("/");
    if name.is_empty() || name.len() > NAME_MAX {
        let detail = format!("the name of a stream must have 1 to {NAME_MAX} bytes of UTF-8");
        return Err(HttpError::new(400, detail));
    }
    Ok(name)
}
