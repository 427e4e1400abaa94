//! What a handler sees: a request, with the server and the connection that it came through.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::access::local::Locality;
use super::answer::BrowserHeaders;
use super::body::{self, Coding};
use super::error::HttpError;
use super::forwarded::Client;
use super::inbound::Inbound;
use super::peer::Peer;
use super::request::{BodyLength, Request};
use super::server_state::ServerState;
use crate::disconnect::Watch;
use crate::stream::Socket;

/// A request, with the server and the connection that its handler needs.
pub struct Exchange<'a> {
    pub(crate) server: &'a Arc<ServerState>,
    pub(crate) peer: Peer,
    /// Whether pages of any origin may read the response (the demo streams).
    pub(super) any_origin: bool,
    /// What the path adds for browsers.
    pub(super) browser: Option<&'static BrowserHeaders>,
    /// Where the request comes from.
    pub(crate) locality: Locality,
    pub(crate) request: Box<Request>,
    pub(super) inbound: &'a mut Inbound,
    pub(super) body_is_read: bool,
}

/// Omits the request, because its headers and its query may have tokens.
impl fmt::Debug for Exchange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Exchange<'_> {
    /// Returns the first value of a query parameter, decoded.
    pub fn query(&self, name: &str) -> Option<String> {
        self.request.query(name)
    }

    /// Returns the value of the first header of this name; `name` must be in lower case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.request.header(name)
    }

    /// Reads and decompresses the body, after a `100 Continue` if the client expects one.
    ///
    /// # Errors
    ///
    /// Fails if there is no body, if it is longer than [`Limits::body`](crate::Limits::body) before
    /// or after decompression, or if it does not arrive within the request deadline. The error is
    /// the response to return.
    pub fn body(&mut self) -> Result<Vec<u8>, HttpError> {
        self.body_up_to(self.server.config.limits.body)
    }

    /// Reads and decompresses a body of at most `limit` bytes.
    pub(crate) fn body_up_to(&mut self, limit: usize) -> Result<Vec<u8>, HttpError> {
        if self.request.body == BodyLength::None {
            let detail = "this request needs a body; send it with Content-Length or chunked";
            return Err(HttpError::new(411, detail).closing());
        }
        let coding = Coding::of(&self.request)?;
        let limits = &self.server.config.limits;
        // NDJSON bodies have their own limit, which applies unless --body-limit is larger.
        let set_by = if limit > limits.body { "for NDJSON" } else { "--body-limit" };
        let limit = body::Limit { bytes: limit, set_by };
        let body = body::read(self.inbound, &self.request, limit, limits.request_deadline)?;
        self.has_read(body, coding, limit)
    }

    /// Reads and decompresses a body of at most `limit` bytes, which may be absent. If it is too long,
    /// or if `reserve` fails, the body is read to its end before the error is returned: see
    /// [`body::read_to_end`].
    pub(super) fn body_to_end(
        &mut self,
        limit: body::Limit,
        reserve: &mut dyn FnMut(usize) -> Result<(), HttpError>,
    ) -> Result<Vec<u8>, HttpError> {
        let coding = Coding::of(&self.request)?;
        if self.request.body == BodyLength::None {
            return Ok(Vec::new());
        }
        if coding == Coding::Gzip {
            reserve(limit.bytes)?; // for the decompressed body, whose length is unknown
        }
        let time = self.server.config.limits.request_deadline;
        match body::read_to_end(self.inbound, &self.request, limit, time, reserve) {
            Ok(body) => self.has_read(body, coding, limit),
            Err(error) => {
                self.body_is_read = !error.closes() && self.inbound.resume();
                Err(error)
            }
        }
    }

    /// Ends the wait for a body, and decompresses it.
    fn has_read(
        &mut self,
        body: Vec<u8>,
        coding: Coding,
        limit: body::Limit,
    ) -> Result<Vec<u8>, HttpError> {
        if !self.inbound.resume() {
            let detail = "the connection was closed to make room for others; retry the request";
            return Err(HttpError::new(503, detail).closing());
        }
        self.body_is_read = true;
        coding.decode(body, limit)
    }

    /// Returns the client for the log. Behind a trusted proxy, this is the address that the proxy
    /// forwards.
    pub(crate) fn client(&self) -> Client {
        Client::of(&self.request, self.peer, &self.server.config.trusted_proxies)
    }

    /// Returns the query for [`Opening`](super::hooks::Opening), or `None` if there are no hooks.
    pub(super) fn query_for_hooks(&self) -> Option<Box<str>> {
        (!self.server.attached.hooks.is_empty()).then(|| self.request.query.as_str().into())
    }

    /// Returns the path, decoded and without its query.
    pub(crate) fn path(&self) -> String {
        format!("/{}", self.request.segments.join("/"))
    }

    /// Returns whether the connection was shed (closed to make room), so that it cannot become a
    /// stream.
    ///
    /// The input of a shed connection has ended, and a stream would take this for a disconnect.
    pub(crate) fn is_shed(&self) -> bool {
        self.inbound.is_shed()
    }

    /// Returns the TCP address of the server's end of this connection.
    ///
    /// # Errors
    ///
    /// Fails if the connection is to a UNIX socket, or if the system does not know the address,
    /// because the connection has been reset.
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        let address = self.inbound.socket.local_addr()?;
        address.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// Returns the socket for a stream to write to.
    pub(crate) fn socket(&self) -> Socket {
        let watch = Arc::new(Watch::new(&self.server.watcher));
        Socket::new(&self.inbound.socket, self.server.config.limits.write_deadline, &watch)
    }
}
