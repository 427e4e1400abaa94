//! `threadcast serve`: the server as a process, with its signals and systemd.

use std::env;
use std::error::Error;
use std::ffi::{OsStr, c_int};
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXFSZ,
};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;
use threadcast::{Config, Handle, Server, StartError};

/// Signals that ask the server to stop.
const STOPPING: [c_int; 2] = [SIGINT, SIGTERM];

/// Signals that would end the process without a drain if nothing handled them. SIGPIPE is
/// ignored by Rust's runtime.
const IGNORED: [c_int; 7] = [SIGHUP, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO];

/// How long a message to systemd may wait for room in its queue.
const NOTIFY_MAX: Duration = Duration::from_secs(1);

/// Serves until a signal asks it to stop, and then drains.
pub(crate) fn run(config: Config) -> Result<(), Box<dyn Error>> {
    let mut signals = Signals::new(IGNORED)?;
    // A write beyond `ulimit -f` fails then, as one to a full disk. It is not logged: the log
    // may be that file.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    threadcast::raise_own_limits();
    let config = Config { lab_program: env::current_exe().ok(), ..config };
    let server = match inherited()? {
        none if none.is_empty() => Server::bind(config)?,
        listeners => Server::with_listeners(listeners, config)?,
    };
    // Before anything learns that there is a server to be stopped.
    for signal in STOPPING {
        signals.add_signal(signal)?;
    }
    announce(&server)?;
    let handle = server.handle();
    spawn("signals", move || obey(&mut signals, &handle))?;
    if let Some(every) = sd_notify::watchdog_enabled() {
        let handle = server.handle();
        spawn("watchdog", move || watch(&handle, every / 3))?;
    }
    tell_systemd(&NotifyState::Ready);
    server.run()?;
    log::info!("stopped");
    Ok(())
}

/// Starts a thread that ends by itself or with the process.
fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
    let thread = thread::Builder::new().name(name.into());
    thread.spawn(run).map(drop).map_err(StartError::Spawn)
}

/// The listeners that systemd holds for us, if it does.
fn inherited() -> Result<Vec<TcpListener>, StartError> {
    let mut passed = ListenFd::from_env();
    let listeners =
        (0..passed.len()).map(|n| passed.take_tcp_listener(n).map_err(StartError::Inherit));
    listeners.filter_map(Result::transpose).collect()
}

/// Prints where the server listens, on a thread that ends with it: standard output may be
/// closed, or a pipe that nobody reads.
fn announce(server: &Server) -> Result<(), StartError> {
    let addresses = server.addresses();
    spawn("announce", move || {
        let lines =
            addresses.iter().map(|addr| format!("threadcast is listening on http://{addr}/\n"));
        let _ = io::stdout().write_all(lines.collect::<String>().as_bytes());
    })
}

/// Does what signals ask for, until the process ends.
fn obey(signals: &mut Signals, handle: &Handle) {
    let mut draining = false;
    for signal in signals.forever() {
        let name = signal_name(signal).unwrap_or("signal");
        if !STOPPING.contains(&signal) {
            log::info!("{name} ignored");
        } else if draining {
            process::exit(0);
        } else {
            draining = true;
            log::info!("draining ({name}); a second signal exits immediately");
            tell_systemd(&NotifyState::Stopping);
            handle.shutdown();
        }
    }
}

/// Tells systemd that the server is well for as long as it is: without that, systemd restarts it.
fn watch(handle: &Handle, every: Duration) {
    loop {
        if handle.is_responsive(every) {
            tell_systemd(&NotifyState::Watchdog);
        } else {
            log::error!("the broadcaster does not answer");
        }
        thread::sleep(every);
    }
}

/// Sends systemd a message, if it started this process.
fn tell_systemd(state: &NotifyState<'_>) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&socket, state) {
        log::warn!("cannot tell systemd how we are: {error}");
    }
}

/// `sd_notify::notify` would wait for systemd without a bound.
fn send(path: &OsStr, state: &NotifyState<'_>) -> io::Result<()> {
    let addr = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(NOTIFY_MAX))?;
    socket.send_to_addr(format!("{state}\n").as_bytes(), &addr).map(drop)
}
