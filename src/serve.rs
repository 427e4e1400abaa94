//! `threadcast serve`: runs the server as a process, and connects it to signals and systemd.

use std::env;
use std::error::Error;
use std::ffi::{OsStr, c_int};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use listenfd::ListenFd;
#[cfg(feature = "lab")]
use rustix::net::getsockname;
use sd_notify::NotifyState;
use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXFSZ,
};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;
use threadcast::{Config, Handle, Server, StartError};

use crate::cli::Serve;
use crate::http::hooks::Attachments;
use crate::jwks;
#[cfg(feature = "lab")]
use crate::live::Live;
use crate::mercure::jwt::KeyRefresh;
use crate::reload::Reloader;
use crate::webhook::Webhooks;

/// Signals that start the drain.
const STOP_SIGNALS: [c_int; 2] = [SIGINT, SIGTERM];

/// Signals that would end the process without a drain if the server did not handle them. SIGPIPE
/// is not among them, because Rust's runtime already ignores it.
const IGNORED_SIGNALS: [c_int; 6] = [SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO];

/// How long a message to systemd may wait for space in the socket's queue.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs the server until a signal stops it, and then drains.
pub(crate) fn run(options: Serve) -> Result<(), Box<dyn Error>> {
    #[cfg(feature = "lab")]
    let has_lab = options.lab;
    let drain_delay = options.drain_delay;
    let webhooks = options.reports.clone().options().map(Webhooks::new);
    let access = options.access.clone();
    let jwks_url = access.jwks_url().map(str::to_owned);
    let refresh = jwks_url.as_ref().map(|_| Arc::new(KeyRefresh::new()));
    let config = Config::from(options);
    let drain = config.limits.drain;
    let mut attached = Attachments { key_refresh: refresh.clone(), ..Attachments::default() };
    if let Some(webhooks) = &webhooks {
        webhooks.attach(&mut attached);
    }
    let mut signals = Signals::new(IGNORED_SIGNALS.into_iter().chain([SIGHUP]))?;
    // With this handler, a write beyond `ulimit -f` fails as a write to a full disk does. The
    // signal is not logged, because the log may be the file that has reached the limit.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    threadcast::raise_own_limits();
    let listeners = inherited()?;
    #[cfg(feature = "lab")]
    let lab = Live::new(env::current_exe().ok());
    #[cfg(feature = "lab")]
    if has_lab {
        check_addresses(&listeners, &config.listen)?;
        lab.attach(&mut attached);
    }
    let server = if listeners.is_empty() {
        Server::bind_with(config, attached)?
    } else {
        Server::with_listeners_and(listeners, config, attached)?
    };
    #[cfg(feature = "lab")]
    let server = server.with_routes(lab.routes(has_lab));
    // These handlers must be set before `announce`: a program that reads the address may send a
    // signal at once.
    for signal in STOP_SIGNALS {
        signals.add_signal(signal)?;
    }
    announce(&server)?;
    let handle = server.handle();
    let every = access.jwks_refresh;
    let reloader = Reloader::new(access, server.handle(), refresh.clone());
    if let (Some(url), Some(refresh)) = (jwks_url, refresh) {
        let reloader = Arc::clone(&reloader);
        spawn("jwks", move || jwks::run(&url, every, &refresh, &reloader))?;
    }
    spawn("signals", move || handle_signals(&mut signals, &handle, &reloader, drain_delay))?;
    if let Some(every) = sd_notify::watchdog_enabled() {
        let handle = server.handle();
        spawn("watchdog", move || run_watchdog(&handle, every / 3))?;
    }
    notify_systemd(&[NotifyState::Ready]);
    let webhooks = webhooks.map(|webhooks| webhooks.start(&server)).transpose()?;
    let ran = server.run();
    if let Some(webhooks) = webhooks {
        webhooks.stop(drain);
    }
    ran?;
    log::info!("stopped");
    Ok(())
}

/// The error of a server with the lab on an address that other machines can reach.
#[cfg(feature = "lab")]
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {0} with --lab: any client of the lab can cut all streams; remove --lab, or \
     listen on 127.0.0.1"
)]
struct Exposed(std::net::SocketAddr);

/// Fails unless all TCP addresses of a server are those of loopback: the addresses of its inherited
/// listeners or, if it has none, those in `listen`.
#[cfg(feature = "lab")]
fn check_addresses(listeners: &[OwnedFd], listen: &[std::net::SocketAddr]) -> Result<(), Exposed> {
    let inherited = listeners.iter().filter_map(|listener| getsockname(listener).ok());
    let inherited: Vec<_> = inherited.filter_map(|address| address.try_into().ok()).collect();
    let addresses = if listeners.is_empty() { listen } else { &inherited };
    let exposed = addresses.iter().find(|addr| !addr.ip().to_canonical().is_loopback());
    exposed.map_or(Ok(()), |addr| Err(Exposed(*addr)))
}

/// Starts a detached thread.
fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
    let thread = thread::Builder::new().name(name.into());
    thread.spawn(run).map(drop).map_err(StartError::Spawn)
}

/// Returns the listeners that systemd passed to this process; empty without socket activation.
fn inherited() -> Result<Vec<OwnedFd>, StartError> {
    let mut passed = ListenFd::from_env();
    let listeners = (0..passed.len()).map(|n| {
        let tcp = passed.take_tcp_listener(n).map(|listener| listener.map(OwnedFd::from));
        let listener = tcp.or_else(|_| Ok(passed.take_unix_listener(n)?.map(OwnedFd::from)));
        listener.map_err(StartError::Inherit)
    });
    listeners.filter_map(Result::transpose).collect()
}

/// Prints the addresses, on a thread of its own, because the write to standard output may block for
/// ever.
fn announce(server: &Server) -> Result<(), StartError> {
    let tcp = server.addresses().into_iter().map(|addr| format!("http://{addr}/"));
    let unix = server.unix_paths().into_iter().map(|path| format!("unix:{}", path.display()));
    let lines = tcp.chain(unix).map(|at| format!("threadcast is listening on {at}\n"));
    let lines: String = lines.collect();
    spawn("announce", move || {
        let _ = io::stdout().write_all(lines.as_bytes());
    })
}

/// Handles signals until the process ends. SIGHUP reloads. Of the signals that stop, the first makes the server retire, if there is a delay, and
/// the next one starts the drain; a signal during the drain ends the process.
fn handle_signals(
    signals: &mut Signals,
    handle: &Handle,
    reloader: &Arc<Reloader>,
    drain_delay: Duration,
) {
    let mut retired = drain_delay.is_zero();
    for signal in signals.forever() {
        let name = signal_name(signal).unwrap_or("signal");
        if signal == SIGHUP && !handle.is_draining() {
            reloader.request(notify_reloading, || notify_systemd(&[NotifyState::Ready]));
        } else if !STOP_SIGNALS.contains(&signal) {
            log::info!("{name} ignored");
        } else if handle.is_draining() {
            process::exit(0);
        } else if retired {
            drain(handle, name);
        } else {
            retired = true;
            log::info!("draining in {drain_delay:?} ({name}); a second signal drains immediately");
            handle.retire();
            let later = handle.clone();
            let waits = spawn("drain-delay", move || {
                thread::sleep(drain_delay);
                if !later.is_draining() {
                    drain(&later, "the delay is over");
                }
            });
            if waits.is_err() {
                drain(handle, "no thread can wait for the delay");
            }
        }
    }
}

fn drain(handle: &Handle, why: &str) {
    log::info!("draining ({why}); a second signal exits immediately");
    notify_systemd(&[NotifyState::Stopping]);
    handle.shutdown();
}

/// Notifies systemd's watchdog for as long as the broadcaster responds. When the notifications end,
/// systemd restarts the server.
fn run_watchdog(handle: &Handle, every: Duration) {
    loop {
        if handle.is_responsive(every) {
            notify_systemd(&[NotifyState::Watchdog]);
        } else {
            log::error!("the broadcaster does not respond; systemd will restart the server");
        }
        thread::sleep(every);
    }
}

/// Tells systemd that a reload begins. A unit with `Type=notify-reload` needs the time.
fn notify_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify_systemd(&[NotifyState::Reloading, now]),
        Err(error) => log::warn!("cannot notify systemd of a reload: {error}"),
    }
}

/// Sends a message to systemd, if systemd started this process.
fn notify_systemd(states: &[NotifyState<'_>]) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&socket, states) {
        log::warn!("cannot notify systemd at $NOTIFY_SOCKET: {error}");
    }
}

/// Sends one message, with a timeout. `sd_notify::notify` would wait for systemd without a limit.
fn send(path: &OsStr, states: &[NotifyState<'_>]) -> io::Result<()> {
    let addr = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(NOTIFY_TIMEOUT))?;
    let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
    socket.send_to_addr((lines.join("\n") + "\n").as_bytes(), &addr).map(drop)
}
