//! The server: binds, runs, and stops.

use std::convert::Infallible;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rustix::event::{EventfdFlags, eventfd};

use super::admission::Admission;
use super::bind::{Address, Listener};
use super::config::Config;
use super::connections::Connections;
use super::handle::Handle;
use super::hooks::Attachments;
use super::keyring::{AccessKeys, Keyring};
use super::listener;
use super::log_limit::LogRateLimit;
use super::mercure::subscriptions::Subscriptions;
use super::publish_rate::PublishRate;
use super::route::Route;
use super::routes::Table;
use super::server_state::{ServerState, Stop, open_pages};
use super::status;
use super::store_threads::{ShutdownOnPanic, StoreThreads, open_hub};
use crate::broadcast::{self, Broadcaster, Delivery};
use crate::capacity::{Capacity, Costs};
use crate::counters::Counters;
use crate::disconnect::Watcher;
use crate::durable::Streams;
use crate::error::StartError;
use crate::limits::Limits;
use crate::registry::{Registry, RegistryOptions};
use crate::store::StoreAt;
use crate::ticker;

/// A server that has bound its addresses and serves after [`run`](Self::run) is called.
///
/// The registry accepts events as soon as the server exists, even before `run` is called.
///
/// ```
/// use threadcast::{Config, Event, Server};
///
/// let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
/// let server = Server::bind(config)?;
/// let (handle, registry) = (server.handle(), server.registry().clone());
/// let running = std::thread::spawn(move || server.run());
/// registry.publish("news", &Event::new("hello"))?;
/// handle.shutdown();
/// running.join().expect("the server did not panic")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Server {
    state: Arc<ServerState>,
    routes: Table,
    broadcasters: Vec<Broadcaster>,
    store_threads: Option<StoreThreads>,
}

impl Server {
    /// Binds every address of `config.listen` and `config.unix_sockets`, and loads the store if there is one.
    ///
    /// From this call on, the kernel queues connections, which [`run`](Self::run) then accepts.
    /// Loading the store takes time and memory in proportion to the number of events in it.
    ///
    /// # Errors
    ///
    /// Fails if an address cannot be bound, the folder `config.public` cannot be read, the store
    /// cannot be opened, or the system has no descriptor or thread left.
    pub fn bind(config: Config) -> Result<Self, StartError> {
        Self::bind_with(config, Attachments::default())
    }

    /// Binds like [`bind`](Self::bind), and attaches what the program needs.
    pub(crate) fn bind_with(config: Config, attached: Attachments) -> Result<Self, StartError> {
        let tcp = config.listen.iter().map(|addr| {
            Listener::bind(*addr, &config.listen, &config.limits)
                .map_err(|source| StartError::Bind { addr: *addr, source })
        });
        let unix = config.unix_sockets.iter().map(|unix| {
            Listener::bind_unix(unix, &config.limits)
                .map_err(|source| StartError::BindUnix { path: unix.path.clone(), source })
        });
        let listeners = tcp.chain(unix).collect::<Result<_, _>>()?;
        Self::new(config, attached, listeners, false)
    }

    /// Creates a server for listeners that another program, such as systemd, has opened and keeps
    /// open.
    ///
    /// `config.listen` and `config.unix_sockets` are ignored. The server does not shut the listeners down when it stops, so
    /// the kernel queues new connections for the next server.
    ///
    /// # Errors
    ///
    /// Fails if one of the sockets is not a listening TCP or UNIX socket, or for a reason that
    /// [`bind`](Self::bind) lists.
    pub fn with_listeners(listeners: Vec<OwnedFd>, config: Config) -> Result<Self, StartError> {
        Self::with_listeners_and(listeners, config, Attachments::default())
    }

    /// Adopts listeners like [`with_listeners`](Self::with_listeners), and attaches what the program
    /// needs.
    pub(crate) fn with_listeners_and(
        listeners: Vec<OwnedFd>,
        config: Config,
        attached: Attachments,
    ) -> Result<Self, StartError> {
        let adopted = listeners.into_iter().map(|it| Listener::adopt(it, &config.limits));
        let listeners: Vec<_> = adopted.collect::<Result<_, _>>().map_err(StartError::Inherit)?;
        let listen = tcp_addresses(&listeners);
        Self::new(Config { listen, ..config }, attached, listeners, true)
    }

    fn new(
        mut config: Config,
        attached: Attachments,
        listeners: Vec<Listener>,
        inherited: bool,
    ) -> Result<Self, StartError> {
        let pages = RwLock::new(Arc::new(open_pages(&config)?));
        let is_in_file = config.store.as_ref().is_some_and(StoreAt::is_file);
        let costs = Costs::new(&config.limits, config.max_channels, config.history_total)
            .with_durable_streams(config.durable_streams.as_ref(), is_in_file);
        let capacity = Capacity::with_broadcasters(&costs, listeners.len(), config.broadcasters);
        let max_clients = max_clients(&config, &capacity);
        warn_of_missing_tokens(&config);
        warn_of_unreachable_event_limit(&config.limits);
        let options = RegistryOptions {
            history: config.history.clone(),
            max_channels: config.max_channels,
            history_total: costs.history_total(),
            ids: true,
        };
        let counters = Arc::<Counters>::default();
        let (hub, tasks, place) = open_hub(&config, options.clone(), &counters)?;
        let clock = Registry::counted(RegistryOptions { ids: false, ..options }, &counters);
        let (broadcasters, mailboxes) = broadcast::broadcasters(config.broadcasters);
        let disconnects = mailboxes.disconnects();
        let watcher = Watcher::new(disconnects, &counters).map_err(StartError::Watch)?;
        let (broadcasters, mailboxes) = match config.delivery {
            Delivery::Wake if !attached.switchable_delivery => (Vec::new(), None),
            delivery => {
                mailboxes.switch(delivery);
                (broadcasters, Some(mailboxes))
            }
        };
        let admission = Admission::new(max_clients, config.max_per_address);
        let per_address = config.max_connections_per_address;
        let connections = Connections::new(&admission, capacity.clients(), per_address, &counters);
        let subscriptions = config.mercure.has_subscriptions().then(Subscriptions::default);
        let publish_rate = config.publish_rate.map(PublishRate::new);
        let durable = Streams::open(config.durable_streams, costs.durable_total(), &place)?;
        let routes = Table::new(&config);
        let state = ServerState {
            keyring: Keyring::new(AccessKeys::take(&mut config)),
            config,
            attached,
            listeners,
            pages,
            hub,
            clock,
            mailboxes,
            watcher,
            connections,
            drain_event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(|errno| StartError::Watch(errno.into()))?,
            subscriptions,
            durable,
            admission,
            publish_rate,
            costs,
            counters,
            status_nanos: AtomicU64::new(0),
            kept_status: Mutex::default(),
            stop: Stop::new(inherited).map_err(StartError::Watch)?,
            retired: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            stopped_accepting: AtomicBool::new(false),
            drain_started: OnceLock::new(),
            rejections: Mutex::default(),
            token_log_limit: LogRateLimit::default(),
            started: Instant::now(),
        };
        let state = Arc::new(state);
        let store_threads = tasks.map(|tasks| StoreThreads::start(tasks, &state));
        let store_threads = store_threads.transpose().map_err(StartError::Spawn)?;
        Ok(Self { state, routes, broadcasters, store_threads })
    }

    /// Adds routes. The module [`extension`](crate::extension) has an example.
    ///
    /// If several routes match a path, the one that was added first is taken; the server's own come
    /// before them.
    #[must_use]
    pub fn with_routes(mut self, routes: impl IntoIterator<Item = Route>) -> Self {
        routes.into_iter().for_each(|route| self.routes.add(route));
        self
    }

    /// Returns the TCP addresses that the server listens on.
    ///
    /// Where `config.listen` has port 0, the address has the port that the system chose.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        tcp_addresses(&self.state.listeners)
    }

    /// Returns the paths of the UNIX sockets that the server listens on.
    pub(crate) fn unix_paths(&self) -> Vec<PathBuf> {
        let paths = self.state.listeners.iter().filter_map(|listener| match &listener.address {
            Address::Unix(path) => Some(path.clone()),
            Address::Tcp(_) => None,
        });
        paths.collect()
    }

    /// Returns the registry of channels, through which this program can publish and subscribe.
    pub fn registry(&self) -> &Registry {
        &self.state.hub
    }

    /// Returns a handle that controls the server from other threads.
    pub fn handle(&self) -> Handle {
        Handle::new(&self.state)
    }

    /// Serves until [`Handle::shutdown`] is called, then drains.
    ///
    /// Returns when every connection has ended, or at the end of the drain time
    /// ([`Limits::drain`]). A store that does not answer delays the return by at most 1 s more.
    ///
    /// # Errors
    ///
    /// Fails if the system cannot create one of the server's own threads, or if the broadcaster
    /// or a thread of the store has panicked.
    pub fn run(mut self) -> Result<(), StartError> {
        let (running, stop) = crossbeam_channel::bounded(0);
        let broadcasting = mem::take(&mut self.broadcasters).into_iter().enumerate();
        let broadcasting = broadcasting
            .map(|(number, broadcaster)| self.spawn_broadcaster(number, broadcaster, stop.clone()))
            .collect::<io::Result<Vec<_>>>()
            .map_err(StartError::Spawn)?;
        let watcher = Arc::clone(&self.state.watcher);
        let thread = thread::Builder::new().name("disconnects".into());
        let watching = thread.spawn(move || watcher.run()).map_err(StartError::Spawn)?;
        let routes = Arc::new(mem::take(&mut self.routes));
        let (ran, deadline) = self.accept(&routes);
        drop(running);
        self.state.watcher.stop();
        // A panic of this thread is ignored, because heartbeats then detected the disconnects
        // instead.
        drop(watching.join());
        let broadcast: Result<(), _> = broadcasting.into_iter().try_for_each(JoinHandle::join);
        // The store's threads end last, so that the store receives the events that ending streams
        // publish.
        let storing = self.store_threads.take().map(|threads| threads.stop(deadline));
        match (broadcast, storing) {
            (Err(_panic), _) => Err(StartError::Broadcaster),
            (_, Some(Err(_panic))) => Err(StartError::StoreWriter),
            _ => ran,
        }
    }

    /// Starts the thread of a broadcaster, which delivers until the sender of `stop` is dropped.
    fn spawn_broadcaster(
        &self,
        number: usize,
        broadcaster: Broadcaster,
        stop: Receiver<Infallible>,
    ) -> io::Result<JoinHandle<()>> {
        let name = match number {
            0 => "broadcaster".to_owned(),
            more => format!("broadcaster-{}", more + 1),
        };
        let ends_with = ShutdownOnPanic(Arc::clone(&self.state));
        thread::Builder::new().name(name).spawn(move || {
            let _ends_with = ends_with;
            broadcaster.run(&stop);
        })
    }

    /// Runs the ticker and the accepting threads until shutdown, then drains.
    ///
    /// First the streams end, while new connections still get a response. Then the other
    /// connections end. Besides the result, returns the deadline of the drain.
    fn accept(&self, routes: &Arc<Table>) -> (Result<(), StartError>, Instant) {
        let state = &self.state;
        let (alive, all_ended) = crossbeam_channel::bounded(0);
        let (ran, deadline) = thread::scope(|scope| {
            let ticker = thread::Builder::new().name("ticker".into());
            let mut threads = vec![ticker.spawn_scoped(scope, || {
                ticker::run(&state.clock, |second| state.sweep(second), || status::event(state));
            })];
            for listener in &state.listeners {
                let thread = thread::Builder::new().name(listener.thread_name());
                let alive = &alive;
                let run = move || listener::run(state, routes, listener, alive);
                threads.push(thread.spawn_scoped(scope, run));
            }
            let spawned = threads.into_iter().try_for_each(|thread| thread.map(drop));
            if spawned.is_err() {
                state.drain();
            }
            state.drain_started.wait();
            let deadline = Instant::now() + state.config.limits.drain;
            state.admission.wait_until_empty(deadline);
            state.close(deadline);
            (spawned.map_err(StartError::Spawn), deadline)
        });
        drop(alive);
        match all_ended.recv_deadline(deadline) {
            Err(RecvTimeoutError::Timeout) => {
                log::warn!(
                    "drain timed out: closing the connections that are still open; \
                     raise --drain to give them more time"
                );
            }
            Err(RecvTimeoutError::Disconnected) => {}
            Ok(never) => match never {},
        }
        (ran, deadline)
    }
}

fn tcp_addresses(listeners: &[Listener]) -> Vec<SocketAddr> {
    let addresses = listeners.iter().filter_map(|listener| match listener.address {
        Address::Tcp(address) => Some(address),
        Address::Unix(_) => None,
    });
    addresses.collect()
}

/// Computes the maximum number of streams, and logs it with the limit that determines it.
fn max_clients(config: &Config, capacity: &Capacity) -> usize {
    let max = capacity.max_clients(config.max_clients);
    let bound = capacity.binding();
    log::info!("accepting up to {max} clients; {} allows {}", bound.name, bound.clients);
    if let Some(configured) = config.max_clients.filter(|configured| *configured > max) {
        log::warn!(
            "--max-clients {configured} exceeds the capacity of {max}; to raise {}: {}",
            bound.name,
            bound.raise
        );
    }
    max
}

/// Returns the listening addresses that other machines can reach.
fn exposed_addresses(config: &Config) -> impl Iterator<Item = &SocketAddr> {
    config.listen.iter().filter(|addr| !addr.ip().to_canonical().is_loopback())
}

/// Logs a warning for each exposed address if the server has no token or key for reading or
/// publishing.
fn warn_of_missing_tokens(config: &Config) {
    for addr in exposed_addresses(config) {
        if config.subscribe_token.is_none() && config.subscribe_key.is_none() {
            log::warn!(
                "every client that reaches {addr} can READ all channels; \
                 set --subscribe-token to require a token"
            );
        }
        if config.publish_token.is_none() && config.publish_key.is_none() {
            log::warn!(
                "other machines cannot publish through {addr}, only local requests can; \
                 set --publish-token to allow them"
            );
        }
    }
}

/// Warns if `--event-limit` was raised above `--body-limit`, so that raising it has no effect.
///
/// A server on which only `--body-limit` was lowered logs no warning, because that is deliberate.
fn warn_of_unreachable_event_limit(limits: &Limits) {
    let Limits { body, event, .. } = limits;
    if event > body && *event != Limits::default().event {
        log::warn!(
            "--event-limit ({event} bytes) has no effect above --body-limit ({body} bytes); \
             raise --body-limit too"
        );
    }
}
