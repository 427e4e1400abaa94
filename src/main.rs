//! Arguments → command → exit code.
//!
//! Exit codes: 0 asked to stop, 1 could not start or go on, 2 wrong arguments.

mod cli;
mod logging;
mod serve;

use std::env;
use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{self, Command as Process, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use threadcast::client::{ClientError, ListenOptions, Listener, Publisher, Stop};
use threadcast::jwt::DraftError;
use threadcast::lab::{self, LabError};
use threadcast::store::{ChannelStats, Stats};
use threadcast::{Capacity, StartError, StoreError, StoreProblem};

use crate::cli::{Cli, Command, Lab, MakeToken, Publish, Store};
use crate::logging::Log;

/// How long a client that was asked to stop may take to finish what it is writing.
const GRACE: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let command = Cli::parse().command();
    if matches!(command, Command::Serve(_) | Command::Doctor(_)) {
        save_address_space();
    }
    let log = match command.log_format() {
        Some(format) => Log::queued(format),
        None => Ok(Log::direct()),
    };
    let log = match log {
        Ok(log) => log,
        Err(error) => {
            let _ = writeln!(io::stderr(), "threadcast: {}", StartError::Spawn(error));
            return ExitCode::FAILURE;
        }
    };
    let outcome = match command {
        Command::Serve(options) => serve::run((*options).into()),
        Command::Publish(options) => publish(options),
        Command::Listen(options) => listen(options.into()),
        Command::Store(look) => store(look),
        Command::Token(wish) => token(wish),
        Command::Doctor(options) => {
            let costs = options.costs();
            let capacity = Capacity::of_a_server(&costs, 1);
            say(&format_args!("{capacity}\n\n{costs}"))
        }
        Command::Lab(options) => lab(options),
    };
    let code = outcome.map_or_else(|error| failure(&*error, &log), |()| ExitCode::SUCCESS);
    log.flush();
    code
}

/// Says why a command failed, and finds its exit code.
fn failure(error: &(dyn Error + 'static), log: &Log) -> ExitCode {
    let kind = error.downcast_ref().map(io::Error::kind);
    if kind == Some(io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS; // the reader of the output has enough, as `head` has
    }
    log.complain(error);
    let is_data = matches!(error.downcast_ref(), Some(ClientError::Data { .. }));
    if is_data || error.is::<LabError>() || error.is::<DraftError>() {
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}

/// Re-executes this program with a single allocator arena, where its address space is
/// bounded: otherwise arenas of 64 MiB take all of it, and a thread that then cannot map its signal
/// stack aborts the process. glibc reads this setting only when a program starts (mallopt(3)).
fn save_address_space() {
    const ARENAS: &str = "MALLOC_ARENA_MAX";
    if getrlimit(Resource::As).current.is_none() || env::var_os(ARENAS).is_some() {
        return;
    }
    let mut arguments = env::args_os();
    let name = arguments.next().unwrap_or_else(|| "threadcast".into());
    let error = match env::current_exe() {
        Ok(program) => Process::new(program).arg0(name).args(arguments).env(ARENAS, "1").exec(),
        Err(error) => error,
    };
    log::warn!("cannot start with {ARENAS}=1, which saves address space: {error}");
}

/// Prints a line. `println!` would panic where nothing takes it.
fn say(line: &dyn Display) -> Result<(), Box<dyn Error>> {
    Ok(writeln!(io::stdout(), "{line}")?)
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
    let (stop, reader_gone) = (listener.stopper(), listener.stopper());
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        signals.forever().next();
        end(stop);
    })?;
    thread::Builder::new().name("reader-gone".into()).spawn(move || {
        wait_for_reader_to_leave();
        end(reader_gone);
    })?;
    listener.run(&mut io::stdout(), &mut io::stderr())?;
    Ok(())
}

/// Ends `listen`, and the process where that does not.
fn end(listener: Stop) {
    listener.stop();
    // What neither a doorbell nor a shut socket ends: looking a name up, or an
    // output that nobody takes.
    thread::sleep(GRACE);
    process::exit(0);
}

/// Returns once what reads standard output has closed it: of a pipe the kernel reports that
/// without a write. On a file it waits for ever.
fn wait_for_reader_to_leave() {
    let stdout = io::stdout();
    loop {
        let mut out = [PollFd::new(&stdout, PollFlags::empty())];
        match poll(&mut out, None) {
            Ok(_) if out[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => return,
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => loop {
                thread::park(); // then a write reports it
            },
        }
    }
}

fn lab(options: Lab) -> Result<(), Box<dyn Error>> {
    if let Some((engine, room)) = options.engine() {
        return Ok(engine.run(room, io::stdout())?);
    }
    if let Some(server) = options.clients_of() {
        return Ok(lab::load_clients::run(server, io::stdout())?);
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
    say(&lab::report::text(&results))?;
    if let Some(folder) = &options.out {
        say(&lab::report::write(&results, folder)?.display())?;
    }
    Ok(())
}
