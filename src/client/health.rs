//! Checks that a server is running.

use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};
use ureq::http::{HeaderMap, Method, StatusCode};

use super::error::ClientError;
use super::http::{Http, SendError, ServerUrl, error_of};

/// Checks that a server answers `GET /healthz` with 200.
///
/// # Errors
///
/// Fails if the server does not answer within this time, or with another status.
pub(crate) fn check_health(server: ServerUrl, within: Duration) -> Result<(), ClientError> {
    let url = format!("{server}/healthz");
    let http = Http::new(server, None, |config| config);
    match http.send(&Method::GET, &url, &HeaderMap::new(), &[], Some(within)) {
        Ok(response) if response.status() == StatusCode::OK => Ok(()),
        Ok(response) => Err(error_of(response)),
        Err(SendError::Temporary { cause, .. }) => Err(ClientError::Connection(cause)),
        Err(SendError::Permanent(error)) => Err(error),
    }
}

/// The most bytes to read of a response on a UNIX socket, to find its first line.
const STATUS_LINE_MAX: usize = 1024;

/// Checks that the server on a UNIX socket answers `GET /healthz` with 200.
///
/// # Errors
///
/// Fails if the server does not answer within this time, or with another status.
pub(crate) fn check_unix_health(socket: &Path, within: Duration) -> Result<(), ClientError> {
    let failed =
        |problem: String| ClientError::Connection(format!("unix:{}: {problem}", socket.display()));
    let line = status_line(socket, within).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => failed(format!("no answer in {within:?}")),
        _ => failed(error.to_string()),
    })?;
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
    match status.and_then(|status: u16| StatusCode::from_u16(status).ok()) {
        Some(StatusCode::OK) => Ok(()),
        Some(status) => Err(ClientError::ErrorResponse {
            status: status.as_u16(),
            reason: status.canonical_reason().unwrap_or_default(),
            detail: String::new(),
        }),
        None => Err(failed("the answer is not HTTP".to_owned())),
    }
}

/// Returns the first line of the answer to `GET /healthz`.
fn status_line(path: &Path, within: Duration) -> io::Result<String> {
    let deadline = Instant::now() + within;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // `connect` waits while the server's queue is full, and this timeout applies to it too.
    socket.set_write_timeout(Some(within))?;
    socket.connect(&SockAddr::unix(path)?)?;
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    (&socket).write_all(request)?;
    let mut answer = Vec::new();
    let mut piece = [0; STATUS_LINE_MAX];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let read = (&socket).read(&mut piece)?;
        answer.extend_from_slice(&piece[..read]);
        let end = answer.iter().position(|byte| *byte == b'\n');
        if end.is_some() || read == 0 || answer.len() >= STATUS_LINE_MAX {
            answer.truncate(end.unwrap_or(answer.len()));
            return Ok(String::from_utf8_lossy(&answer).into_owned());
        }
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
    }
}
