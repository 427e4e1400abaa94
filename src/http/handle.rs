//! The handle through which a program controls its server.

use std::sync::Arc;
use std::time::Duration;

use super::exchange::Exchange;
use super::keyring::AccessKeys;
use super::server_state::ServerState;
use super::status;
use crate::broadcast::Delivery;
use crate::error::StartError;
use crate::event::Event;
use crate::limits::Limits;
use crate::registry::Registry;
use crate::ticker;

/// Controls a [`Server`](crate::Server) from other threads, and from handlers of requests.
///
/// ```
/// use threadcast::{Config, Server};
///
/// let server = Server::bind(Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() })?;
/// let handle = server.handle();
/// let running = std::thread::spawn(move || server.run());
/// handle.shutdown();
/// running.join().expect("the server did not panic")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Handle {
    state: Arc<ServerState>,
}

impl Handle {
    pub(super) fn new(state: &Arc<ServerState>) -> Self {
        Self { state: Arc::clone(state) }
    }

    /// Makes `/readyz` answer 503, so that load balancers send no more clients. The server goes on as
    /// before until [`shutdown`](Self::shutdown).
    pub fn retire(&self) {
        self.state.retire();
    }

    /// Returns whether the drain has started.
    pub(crate) fn is_draining(&self) -> bool {
        self.state.is_draining()
    }

    /// Starts the drain and returns at once; [`Server::run`](crate::Server::run) returns when the
    /// drain is over.
    ///
    /// The server rejects new streams. It ends the open streams over the first half of the drain
    /// time ([`Limits::drain`]), and sends each a `retry:` field and the last chunk. Then it closes
    /// the other connections. Later calls have no effect.
    pub fn shutdown(&self) {
        self.state.drain();
    }

    /// Returns whether all broadcasters respond within this time, for a watchdog.
    ///
    /// Blocks until they respond, at most for this time. Always true if the server has no
    /// broadcaster ([`Delivery::Wake`]).
    pub(crate) fn is_responsive(&self, within: Duration) -> bool {
        self.state.mailboxes.as_ref().is_none_or(|mailboxes| mailboxes.ping(within))
    }

    /// Replaces the tokens and keys.
    ///
    /// The streams that were opened with a token or key that is no longer among them end cleanly,
    /// so that their clients reconnect and get 401. All other streams go on.
    ///
    /// ```
    /// use threadcast::{AccessKeys, Config, Server, Token};
    ///
    /// let old = Some(Token::new("old")?);
    /// let listen = vec!["127.0.0.1:0".parse()?];
    /// let server = Server::bind(Config { listen, subscribe_token: old, ..Config::default() })?;
    /// let new = Some(Token::new("new")?);
    /// server.handle().replace_keys(AccessKeys { subscribe_token: new, ..AccessKeys::default() });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn replace_keys(&self, keys: AccessKeys) {
        self.state.replace_keys(keys);
    }

    /// Opens the folder of the pages ([`Config::public`](crate::Config::public)) again.
    ///
    /// The server reads each file when it is requested. But the path of the folder is resolved only
    /// once, so this call is needed if the path is a link that now has another target.
    ///
    /// # Errors
    ///
    /// Fails if the folder cannot be read. The server then keeps the old one.
    pub(crate) fn reload_pages(&self) -> Result<(), StartError> {
        self.state.reload_pages()
    }

    /// Counts a reload of files, for `/metrics`.
    pub(crate) fn count_reload(&self, succeeded: bool) {
        self.state.counters.reload(succeeded);
    }

    /// Counts a fetch of a key set, for `/metrics`.
    pub(crate) fn count_key_fetch(&self, succeeded: bool) {
        self.state.counters.key_fetch(succeeded);
    }

    /// Returns the registry of channels, through which this program can publish and subscribe.
    pub fn registry(&self) -> &Registry {
        &self.state.hub
    }

    /// Returns the limits of the server.
    pub(crate) fn limits(&self) -> &Limits {
        &self.state.config.limits
    }

    /// Returns the number of open streams and WebSockets.
    pub fn clients(&self) -> usize {
        self.state.admission.clients()
    }

    /// Returns the maximum number of streams and WebSockets.
    pub(crate) fn max_clients(&self) -> usize {
        self.state.admission.max_clients
    }

    /// Switches the delivery mode of all streams. No client loses an event or receives one twice.
    ///
    /// Has no effect on a server without a broadcaster: one that started with [`Delivery::Wake`]
    /// and without `switchable_delivery` in its attachments.
    pub(crate) fn switch_delivery(&self, delivery: Delivery) {
        self.state.switch(delivery);
    }

    /// Sends the status to the subscribers of `/status/stream` now, and not at the next second.
    pub(crate) fn publish_status(&self) {
        let clock = &self.state.clock;
        if clock.subscribers(ticker::STATUS) > 0 {
            // Publishing fails after the registry is closed. The streams then have ended.
            let _ = clock.publish(ticker::STATUS, &status::event(&self.state));
        }
    }

    /// Returns the number of open streams of the routes that [`Route::watch`] creates.
    ///
    /// [`Route::watch`]: crate::extension::Route::watch
    pub(crate) fn watchers(&self) -> usize {
        self.state.clock.subscribers(ticker::WATCH)
    }

    /// Publishes an event to the streams that [`watchers`](Self::watchers) counts. No other stream
    /// gets it, and no store keeps it.
    pub(crate) fn publish_to_watchers(&self, event: &Event) {
        // Publishing fails after the registry is closed. The streams then have ended.
        let _ = self.state.clock.publish(ticker::WATCH, event);
    }
}

impl Exchange<'_> {
    /// Returns a handle that controls the server.
    pub fn server(&self) -> Handle {
        Handle::new(self.server)
    }
}
