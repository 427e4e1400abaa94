//! Arguments → command → exit code. The only file that prints.
//!
//! Exit codes: 0 asked to stop, 1 could not start or go on, 2 wrong arguments.

#![allow(clippy::print_stdout, clippy::print_stderr)] // this is the file that prints

mod cli;
mod logging;

use std::env;
use std::error::Error;
use std::io::{self, Write};
use std::net::TcpListener;
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use listenfd::ListenFd;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use threadcast::client::{ClientError, ListenOptions, Listener, Publisher};
use threadcast::jwt::DraftError;
use threadcast::lab::{self, LabError};
use threadcast::store::{ChannelStats, Stats};
use threadcast::{Ceiling, Config, Handle, Server, StartError, StoreError, StoreProblem};

use crate::cli::{Cli, Command, Lab, MakeToken, Publish, Store};

/// How long a client that was asked to stop may take to finish what it is writing.
const GRACE: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let command = Cli::parse().command();
    logging::start(command.log_format());
    let outcome = match command {
        Command::Serve(options) => serve((*options).into()),
        Command::Publish(options) => publish(options),
        Command::Listen(options) => listen(options.into()),
        Command::Store(look) => store(look),
        Command::Token(wish) => token(wish),
        Command::Doctor(options) => {
            println!("{}", Ceiling::of_a_server(options.delivery(), 1));
            Ok(())
        }
        Command::Lab(options) => lab(options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("threadcast: {error}");
            let ours = matches!(error.downcast_ref(), Some(ClientError::Data { .. }));
            if ours || error.is::<LabError>() || error.is::<DraftError>() {
                ExitCode::from(2)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn serve(config: Config) -> Result<(), Box<dyn Error>> {
    threadcast::raise_own_limits();
    let config = Config { lab_program: env::current_exe().ok(), ..config };
    let server = match inherited()? {
        none if none.is_empty() => Server::bind(config)?,
        listeners => Server::on(listeners, config)?,
    };
    // Before anybody is told that it is there to be stopped.
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    for addr in server.addresses() {
        println!("threadcast is listening on http://{addr}/");
    }
    let handle = server.handle();
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut signals = signals.forever();
        signals.next();
        log::info!("asked to stop; once more stops at once");
        tell_systemd(NotifyState::Stopping);
        handle.shutdown();
        signals.next();
        process::exit(0);
    })?;
    if let Some(every) = sd_notify::watchdog_enabled() {
        let handle = server.handle();
        thread::Builder::new().name("watchdog".into()).spawn(move || watch(&handle, every / 3))?;
    }
    tell_systemd(NotifyState::Ready);
    server.run()?;
    log::info!("stopped");
    Ok(())
}

/// The listeners that systemd holds for us, if it does.
fn inherited() -> Result<Vec<TcpListener>, StartError> {
    let mut passed = ListenFd::from_env();
    let listeners =
        (0..passed.len()).map(|n| passed.take_tcp_listener(n).map_err(StartError::Inherit));
    listeners.filter_map(Result::transpose).collect()
}

fn tell_systemd(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        log::warn!("cannot tell systemd how we are: {error}");
    }
}

/// Tells systemd that we are well for as long as we are. It starts us anew if not.
fn watch(handle: &Handle, every: Duration) {
    loop {
        if handle.answers(every) {
            tell_systemd(NotifyState::Watchdog);
        } else {
            log::error!("the deliverer does not answer");
        }
        thread::sleep(every);
    }
}

fn publish(mut options: Publish) -> Result<(), Box<dyn Error>> {
    let (data, id, verbose) = (options.data.take(), options.id.take(), options.verbose);
    let publisher = Publisher::new(options.into());
    match data {
        Some(data) => {
            let answer = publisher.publish(&data, id.as_deref())?;
            let _ = writeln!(io::stdout(), "{}", answer.id); // published, whoever reads it
        }
        None if verbose => publisher.publish_lines(io::stdin(), Some(&mut io::stdout()))?,
        None => publisher.publish_lines(io::stdin(), None)?,
    }
    Ok(())
}

fn store(look: Store) -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout().lock();
    match look {
        Store::Check { path } => {
            let stats = threadcast::store::stats(&path)?;
            let events: u64 = stats.channels.iter().map(|channel| channel.events).sum();
            let channels = stats.channels.len();
            let last = stats.last_id;
            writeln!(out, "sound; channels: {channels}, events: {events}, last id: {last}")?;
        }
        Store::Stats { path } => print(&mut out, &threadcast::store::stats(&path)?)?,
        Store::Export { path, channel } => {
            let mut out = io::BufWriter::new(out);
            match threadcast::store::export(&path, channel.as_deref(), &mut out) {
                // Whoever reads it has enough.
                Err(StoreError { problem: StoreProblem::Output(error), .. })
                    if error.kind() == io::ErrorKind::BrokenPipe => {}
                exported => exported?,
            }
        }
    }
    Ok(())
}

fn token(wish: MakeToken) -> Result<(), Box<dyn Error>> {
    let (key, draft) = wish.parts();
    let _ = writeln!(io::stdout(), "{}", key.sign(&draft)?); // made, whoever reads it
    Ok(())
}

fn print(out: &mut impl Write, stats: &Stats) -> io::Result<()> {
    let Stats { file_bytes, last_id, channels } = stats;
    writeln!(out, "file: {file_bytes} bytes; channels: {}, last id: {last_id}", channels.len())?;
    for channel in channels {
        let ChannelStats { name, events, private, bytes, first_id, last_id } = channel;
        write!(out, "{name:?}: events: {events}")?;
        if *private > 0 {
            write!(out, " (private: {private})")?;
        }
        writeln!(out, ", data: {bytes} bytes, from {first_id} to {last_id}")?;
    }
    Ok(())
}

fn listen(options: ListenOptions) -> Result<(), Box<dyn Error>> {
    let listener = Listener::new(options);
    let stop = listener.stopper();
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        signals.forever().next();
        stop.stop();
        // What neither a doorbell nor a shut socket ends: looking a name up, or an
        // output that nobody takes.
        thread::sleep(GRACE);
        process::exit(0);
    })?;
    listener.run(&mut io::stdout(), &mut io::stderr())?;
    Ok(())
}

fn lab(options: Lab) -> Result<(), Box<dyn Error>> {
    if let Some((engine, room)) = options.engine() {
        return Ok(engine.run(room, io::stdout())?);
    }
    if let Some(server) = options.clients_of() {
        return Ok(lab::crowd::run(server, io::stdout())?);
    }
    let options = options.options(env::current_exe()?);
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The first asks it to stop, which it does in a moment; the second does not ask.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let style = "{bar:30} {percent:>3} %  {prefix} left  {msg}";
    let bar = ProgressBar::new(1).with_style(ProgressStyle::with_template(style)?);
    let results = lab::run(&options, &stop, &mut |progress| {
        let left = Duration::from_secs(progress.left.as_secs());
        bar.set_prefix(humantime::format_duration(left).to_string());
        bar.set_message(progress.what.clone());
        bar.set_length(progress.planned.as_secs());
        bar.set_position(progress.done.as_secs());
    })?;
    bar.finish_and_clear();
    println!("{}", lab::report::text(&results));
    if let Some(folder) = &options.out {
        println!("{}", lab::report::write(&results, folder)?.display());
    }
    Ok(())
}
