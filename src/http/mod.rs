//! The server as the network sees it: listeners, connections, requests and
//! answers. This room and the recipes are the only ones that know what a
//! request is.

mod access;
mod admission;
mod answer;
mod assets;
pub(crate) mod body;
mod channels;
mod coding;
mod conditional;
mod config;
mod connection;
mod connections;
mod cors;
mod cursor;
pub(crate) mod error;
pub(crate) mod forwarded;
mod lab;
mod listener;
mod listing;
mod load_clients;
pub(crate) mod mercure;
pub(crate) mod publish;
pub(crate) mod request;
mod routes;
mod server_state;
pub(crate) mod session;
mod status;
mod store_threads;
mod streams;
pub(crate) mod websocket;

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use rustix::event::{EventfdFlags, eventfd};

use self::admission::Admission;
use self::assets::Assets;
pub use self::config::{Config, Mercure};
use self::connections::Connections;
pub use self::cors::CorsOrigins;
use self::lab::Lab;
use self::listener::{Pace, Stop};
use self::mercure::Subscriptions;
pub(crate) use self::server_state::ServerState;
use self::store_threads::{ShutdownOnPanic, StoreThreads, hub};
use crate::broadcast::{Broadcaster, Delivery};
use crate::capacity::{Capacity, Costs};
use crate::counters::Counters;
use crate::disconnect::Watcher;
use crate::error::StartError;
use crate::limits::Limits;
use crate::registry::{Registry, RegistryOptions};
use crate::ticker;

/// A server that is bound, and serves once it is [`run`](Self::run).
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
    shared: Arc<ServerState>,
    broadcaster: Option<Broadcaster>,
    writer: Option<StoreThreads>,
}

impl Server {
    /// Binds every address, and reads the store if there is one. From here on
    /// connections are queued by the system.
    pub fn bind(config: Config) -> Result<Self, StartError> {
        let listeners = (config.listen.iter())
            .map(|addr| {
                listener::bind(*addr, &config.listen, &config.limits)
                    .map_err(|source| StartError::Bind { addr: *addr, source })
            })
            .collect::<Result<_, _>>()?;
        Self::new(config, listeners, false)
    }

    /// Serves listeners that somebody else has opened and goes on to hold, as
    /// systemd does; `config.listen` is not looked at. They are left as they are when
    /// this server stops: connections then wait in them for the next one.
    ///
    /// Fails if one of them is no listening TCP socket.
    pub fn on(listeners: Vec<TcpListener>, config: Config) -> Result<Self, StartError> {
        for listener in &listeners {
            listener::adopt(listener, &config.limits).map_err(StartError::Inherit)?;
        }
        let addresses = listeners.iter().map(TcpListener::local_addr);
        let listen = addresses.collect::<Result<_, _>>().map_err(StartError::Inherit)?;
        Self::new(Config { listen, ..config }, listeners, true)
    }

    fn new(
        config: Config,
        listeners: Vec<TcpListener>,
        inherited: bool,
    ) -> Result<Self, StartError> {
        if let Some(addr) = strangers(&config).next().filter(|_| config.lab) {
            return Err(StartError::Lab { addr: *addr });
        }
        let folder = config.public.as_deref();
        let assets = Assets::open(folder).map_err(|source| StartError::Public {
            folder: folder.map(|folder| folder.display().to_string()).unwrap_or_default(),
            source,
        })?;
        let costs = Costs::new(&config.limits, config.max_channels, config.history_total);
        let capacity = Capacity::of_a_server(&costs, listeners.len());
        let max_clients = max_clients(&config, &capacity);
        warn_of_strangers(&config);
        warn_of_limits(&config.limits);
        let options = RegistryOptions {
            history: config.history.clone(),
            max_channels: config.max_channels,
            history_total: costs.history_total(),
            ids: true,
        };
        let counters = Arc::<Counters>::default();
        let (hub, owner) = hub(&config, options.clone(), &counters)?;
        let clock = Registry::counted(RegistryOptions { ids: false, ..options }, &counters);
        let (broadcaster, mailbox, disconnects) = Broadcaster::new();
        let watcher = Watcher::new(disconnects, &counters).map_err(StartError::Watch)?;
        let (broadcaster, mailbox) = match config.delivery {
            Delivery::Wake if !config.lab => (None, None),
            delivery => {
                mailbox.switch(delivery);
                (Some(broadcaster), Some(mailbox))
            }
        };
        let (tell, told) = crossbeam_channel::bounded(0);
        let admission = Admission::new(max_clients, config.max_per_address);
        let per_address = config.max_connections_per_address;
        let connections = Connections::new(&admission, capacity.clients(), per_address, &counters);
        let lab = config.lab.then(Lab::default);
        let subscriptions = config.mercure.tells().then(Subscriptions::default);
        let shared = ServerState {
            config,
            listeners,
            assets,
            hub,
            clock,
            mailbox,
            watcher,
            connections,
            drain_event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(|errno| StartError::Watch(errno.into()))?,
            lab,
            subscriptions,
            admission,
            costs,
            counters,
            looking: AtomicU64::new(0),
            stop: Stop::new(inherited).map_err(StartError::Watch)?,
            draining: AtomicBool::new(false),
            accepts_no_more: AtomicBool::new(false),
            told_to_stop: (Mutex::new(Some(tell)), told),
            refusing: Mutex::default(),
            token_lines: Pace::default(),
            started: Instant::now(),
        };
        let shared = Arc::new(shared);
        let handle = Handle { shared: Arc::clone(&shared) };
        let writer = owner.map(|owner| StoreThreads::start(owner, &handle));
        let writer = writer.transpose().map_err(StartError::Spawn)?;
        Ok(Self { shared, broadcaster, writer })
    }

    /// The addresses that are listened on, with the ports that were free.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.shared.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// The channels, to publish to from within the program.
    pub fn registry(&self) -> &Registry {
        &self.shared.hub
    }

    /// What stops the server from another thread.
    pub fn handle(&self) -> Handle {
        Handle { shared: Arc::clone(&self.shared) }
    }

    /// Serves until it is told to stop, and every connection has ended or the
    /// drain time is over. A store that does not answer is left after that.
    ///
    /// Fails if the system has no thread for one of the server's own, or if the
    /// broadcaster has panicked, which is not one client's matter.
    pub fn run(mut self) -> Result<(), StartError> {
        let (running, stop) = crossbeam_channel::bounded(0);
        let broadcaster = self.broadcaster.take().map(|broadcaster| {
            let ends_with = ShutdownOnPanic(self.handle());
            let thread = thread::Builder::new().name("broadcaster".into());
            thread.spawn(move || {
                let _ends_with = ends_with;
                broadcaster.run(&stop);
            })
        });
        let broadcaster = broadcaster.transpose().map_err(StartError::Spawn)?;
        let watcher = Arc::clone(&self.shared.watcher);
        let thread = thread::Builder::new().name("disconnects".into());
        let watching = thread.spawn(move || watcher.run()).map_err(StartError::Spawn)?;
        let (ran, deadline) = self.accept();
        drop(running);
        self.shared.watcher.stop();
        drop(watching.join()); // had it panicked, hang-ups were found by heartbeats
        let delivery = broadcaster.map(JoinHandle::join);
        // Last, so that it takes what the ends of the streams still had to say.
        let writing = self.writer.take().map(|writer| writer.stop(deadline));
        match (delivery, writing) {
            (Some(Err(_panic)), _) => Err(StartError::Broadcaster),
            (_, Some(Err(_panic))) => Err(StartError::StoreWriter),
            _ => ran,
        }
    }

    /// Ticks and accepts until told to stop, then drains: first the streams, while
    /// newcomers are still answered; then whatever else is open. Returns the drain's deadline too.
    fn accept(&self) -> (Result<(), StartError>, Instant) {
        let shared = &self.shared;
        let (alive, all_gone) = crossbeam_channel::bounded(0);
        let (ran, deadline) = thread::scope(|scope| {
            let ticker = thread::Builder::new().name("ticker".into());
            let mut threads = vec![ticker.spawn_scoped(scope, || {
                ticker::run(&shared.clock, &shared.hub, || status::event(shared));
            })];
            for listener in &shared.listeners {
                let name = listener.local_addr().map(|addr| format!("accept-{}", addr.port()));
                let thread = thread::Builder::new().name(name.unwrap_or_default());
                let alive = &alive;
                threads.push(
                    thread.spawn_scoped(scope, move || listener::run(shared, listener, alive)),
                );
            }
            let spawned = threads.into_iter().try_for_each(|thread| thread.map(drop));
            if spawned.is_err() {
                shared.drain();
            }
            let Err(_told) = shared.told_to_stop.1.recv();
            let deadline = Instant::now() + shared.config.limits.drain;
            shared.admission.wait_empty(deadline);
            shared.close(deadline);
            (spawned.map_err(StartError::Spawn), deadline)
        });
        drop(alive);
        match all_gone.recv_deadline(deadline) {
            Err(RecvTimeoutError::Timeout) => {
                log::warn!("some connections did not end within --drain; they are cut");
            }
            Err(RecvTimeoutError::Disconnected) => {}
            Ok(never) => match never {},
        }
        (ran, deadline)
    }
}

/// How many streams there may be; says so, and what keeps it from being more.
fn max_clients(config: &Config, capacity: &Capacity) -> usize {
    let most = capacity.max_clients(config.max_clients);
    let bound = capacity.binding();
    log::info!("up to {most} clients; {} leaves room for {}", bound.name, bound.clients);
    if let Some(asked) = config.max_clients.filter(|asked| *asked > most) {
        log::warn!(
            "--max-clients {asked} is more than can be held here; to raise {}: {}",
            bound.name,
            bound.raise
        );
    }
    most
}

/// The addresses that others than this machine can reach.
fn strangers(config: &Config) -> impl Iterator<Item = &SocketAddr> {
    config.listen.iter().filter(|addr| !addr.ip().to_canonical().is_loopback())
}

/// Who listens beyond loopback should have meant to.
fn warn_of_strangers(config: &Config) {
    for addr in strangers(config) {
        if config.subscribe_token.is_none() && config.subscribe_key.is_none() {
            log::warn!("anybody who reaches {addr} may READ every channel; see --subscribe-token");
        }
        if config.publish_token.is_none() && config.publish_key.is_none() {
            log::warn!("nobody but this machine may publish on {addr}; see --publish-token");
        }
    }
}

/// An event comes in a body. Who has only made the bodies smaller knows that.
fn warn_of_limits(limits: &Limits) {
    let Limits { body, event, .. } = limits;
    if event > body && *event != Limits::default().event {
        log::warn!(
            "--event-limit is {event} bytes, but no body is longer than the {body} of --body-limit, \
             which comes first; raise that too"
        );
    }
}

/// Never sent: each connection's thread holds a sender, and the last one to go
/// disconnects the channel.
type Alive = Infallible;

/// Stops a [`Server`] from another thread.
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
    shared: Arc<ServerState>,
}

impl Handle {
    /// Ends the streams over half of the drain time, each with a `retry:` and its last
    /// chunk, and refuses new ones; then closes the other connections. Returns at once;
    /// [`Server::run`] returns when it is done, within the drain time.
    pub fn shutdown(&self) {
        self.shared.drain();
    }

    /// Whether the server still does its work: whether the thread that delivers to
    /// everybody answers within this time. For a watchdog.
    pub fn answers(&self, within: Duration) -> bool {
        self.shared.mailbox.as_ref().is_none_or(|mailbox| mailbox.ping(within))
    }
}
