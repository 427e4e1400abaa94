//! Checks that a server is running.

use std::time::Duration;

use ureq::http::{HeaderMap, Method, StatusCode};

use super::ClientError;
use super::http::{Http, SendError, ServerUrl, error_of};

/// Checks that a server answers `GET /healthz` with 200.
///
/// # Errors
///
/// Fails if the server does not answer within this time, or with another status.
///
/// ```
/// use std::time::Duration;
/// use threadcast::client::check_health;
///
/// let server = "http://127.0.0.1:1".parse()?; // no server listens there
/// assert!(check_health(server, Duration::from_secs(1)).is_err());
/// # Ok::<(), threadcast::client::ClientError>(())
/// ```
pub fn check_health(server: ServerUrl, within: Duration) -> Result<(), ClientError> {
    let url = format!("{server}/healthz");
    let http = Http::new(server, None, |config| config);
    match http.send(&Method::GET, &url, &HeaderMap::new(), &[], Some(within)) {
        Ok(response) if response.status() == StatusCode::OK => Ok(()),
        Ok(response) => Err(error_of(response)),
        Err(SendError::Temporary { cause, .. }) => Err(ClientError::Connection(cause)),
        Err(SendError::Permanent(error)) => Err(error),
    }
}
