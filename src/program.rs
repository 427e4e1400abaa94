//! The `threadcast` program: parses the arguments, runs the command, returns the exit code.
//!
//! Only the program itself, its tests and its manual need this module. The commands are private
//! modules of this crate, so that they can use what no other program needs.

use std::env;
use std::error::Error;
use std::fmt::Display;
#[cfg(feature = "lab")]
use std::io::IsTerminal;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
#[cfg(feature = "lab")]
use std::path::PathBuf;
use std::process::{self, Command as Process, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use threadcast::client::{ClientError, Listener, Publisher, StopHandle};
use threadcast::jwt::DraftError;
#[cfg(feature = "lab")]
use threadcast::{Config, Server};
use threadcast::{StartError, StoreError, StoreProblem};

use crate::capacity::Capacity;
#[cfg(feature = "lab")]
use crate::cli::Lab;
use crate::cli::client::{Destination, Source};
use crate::cli::{Cli, Command, Listen, Publish, Store, TokenArgs};
use crate::client::{StreamReader, StreamWriter};
use crate::durable::{self, Lifetime, StreamStats};
#[cfg(feature = "lab")]
use crate::lab;
#[cfg(feature = "lab")]
use crate::live::Live;
use crate::logging::Log;
use crate::store::{ChannelStats, Stats, export, stats};
use crate::{load, serve};

/// How long `listen` may take to finish a write after a signal, before the process exits.
const STOP_TIMEOUT: Duration = Duration::from_millis(500);

/// Runs the program with the arguments of this process.
///
/// Exit codes: 0 success or stopped by a signal, 1 failed to start or to continue, 2 invalid
/// arguments.
pub fn main() -> ExitCode {
    let command = Cli::parse().command();
    if matches!(command, Command::Serve(_) | Command::Doctor(_)) {
        limit_allocator_arenas();
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
        Command::Serve(options) => serve::run(*options),
        Command::Publish(options) => publish(options),
        Command::Listen(options) => listen(options),
        Command::Store(command) => store(command),
        Command::Token(options) => token(options),
        Command::Healthcheck(options) => options.check().map_err(Into::into),
        Command::Doctor(options) => {
            let costs = options.costs();
            let capacity = Capacity::of_new_server(&costs, 1);
            print_line(&format_args!("{capacity}\n\n{costs}"))
        }
        Command::Load(options) => load(&options),
        #[cfg(feature = "lab")]
        Command::Lab(options) => lab(options),
    };
    let code = outcome.map_or_else(|error| failure(&*error, &log), |()| ExitCode::SUCCESS);
    log.flush();
    code
}

/// Returns the definition of the command line, for the manual and the shell completions.
pub fn command() -> clap::Command {
    <Cli as CommandFactory>::command()
}

/// Binds a server that answers the paths of the lab, as that of `threadcast serve` does.
///
/// `has_lab` is the option `--lab`. `program` is the path of the `threadcast` program, which runs the
/// lab's load clients and its event loop; without it there are none.
#[cfg(feature = "lab")]
pub fn bind(config: Config, has_lab: bool, program: Option<PathBuf>) -> Result<Server, StartError> {
    let lab = Live::new(program);
    if has_lab {
        return lab.bind(config);
    }
    Ok(Server::bind(config)?.with_routes(lab.routes(false)))
}

/// Reports a command's error on standard error, and returns the process's exit code.
fn failure(error: &(dyn Error + 'static), log: &Log) -> ExitCode {
    let kind = error.downcast_ref().map(io::Error::kind);
    if kind == Some(io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS; // the reader closed the output, as `head` does: not an error
    }
    log.print_error(error);
    let is_data = matches!(error.downcast_ref(), Some(ClientError::Data { .. }));
    #[cfg(feature = "lab")]
    let is_data = is_data || error.is::<lab::LabError>();
    if is_data || error.is::<DraftError>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}

/// Re-executes this program with one allocator arena if its address space is limited.
///
/// Each of glibc's arenas reserves 64 MiB. Several arenas can use up a limited address space, and a
/// thread that cannot map its signal stack then aborts the process. This function starts the
/// program again, because glibc reads `MALLOC_ARENA_MAX` only when a program starts (mallopt(3)).
fn limit_allocator_arenas() {
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
    log::warn!("cannot restart with {ARENAS}=1, which saves address space: {error}");
}

/// Prints a line. Returns an error if standard output is closed, where `println!` would panic.
fn print_line(line: &dyn Display) -> Result<(), Box<dyn Error>> {
    Ok(writeln!(io::stdout(), "{line}")?)
}

fn publish(mut options: Publish) -> Result<(), Box<dyn Error>> {
    let (data, id, verbose) = (options.data.take(), options.id.take(), options.verbose);
    let publisher = match options.destination() {
        Destination::Stream(options) => return Ok(StreamWriter::new(options).write(io::stdin())?),
        Destination::Channel(options) => Publisher::new(options),
    };
    match data {
        Some(data) => {
            let publication = publisher.publish(&data, id.as_deref())?;
            // A failure to print the id is ignored, because the event is published.
            let _ = writeln!(io::stdout(), "{}", publication.id);
        }
        None if verbose => publisher.publish_lines(io::stdin(), Some(&mut io::stdout()))?,
        None => publisher.publish_lines(io::stdin(), None)?,
    }
    Ok(())
}

fn store(command: Store) -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout().lock();
    match command {
        Store::Check { path } => {
            let (stats, streams) = stats(&path, durable::stats)?;
            let events: u64 = stats.channels.iter().map(|channel| channel.events).sum();
            let channels = stats.channels.len();
            let last = stats.last_id;
            write!(out, "valid; channels: {channels}, events: {events}, last id: {last}")?;
            print_count(&mut out, &streams)?;
        }
        Store::Stats { path } => {
            let (stats, streams) = stats(&path, durable::stats)?;
            let Stats { file_bytes, last_id, channels } = stats;
            write!(
                out,
                "file: {file_bytes} bytes; channels: {}, last id: {last_id}",
                channels.len()
            )?;
            print_count(&mut out, &streams)?;
            channels.iter().try_for_each(|channel| print_channel(&mut out, channel))?;
            streams.iter().try_for_each(|stream| print_stream(&mut out, stream))?;
        }
        Store::Export { path, channel } => {
            let mut out = io::BufWriter::new(out);
            match export(&path, channel.as_deref(), &mut out) {
                // The reader closed the output, as `head` does: not an error.
                Err(StoreError { problem: StoreProblem::Output(error), .. })
                    if error.kind() == io::ErrorKind::BrokenPipe => {}
                exported => exported?,
            }
        }
    }
    Ok(())
}

fn token(options: TokenArgs) -> Result<(), Box<dyn Error>> {
    let (key, draft) = options.into_parts();
    // If the output is closed, nothing is printed, and the command succeeds.
    let _ = writeln!(io::stdout(), "{}", key.sign(&draft)?);
    Ok(())
}

/// Prints the number of durable streams, if a store has any, and the end of the line.
fn print_count(out: &mut impl Write, streams: &[StreamStats]) -> io::Result<()> {
    match streams.len() {
        0 => writeln!(out),
        count => writeln!(out, ", durable streams: {count}"),
    }
}

fn print_channel(out: &mut impl Write, channel: &ChannelStats) -> io::Result<()> {
    let ChannelStats { name, events, private, bytes, first_id, last_id } = channel;
    write!(out, "{name:?}: events: {events}")?;
    if *private > 0 {
        write!(out, " (private: {private})")?;
    }
    writeln!(out, ", data: {bytes} bytes, from {first_id} to {last_id}")
}

fn print_stream(out: &mut impl Write, stream: &StreamStats) -> io::Result<()> {
    let StreamStats { name, media, appends, bytes, .. } = stream;
    write!(out, "stream {name:?}: appends: {appends}, data: {bytes} bytes, {media}")?;
    if let Some(source) = &stream.source {
        write!(out, ", fork of {source:?}")?;
    }
    match &stream.lifetime {
        Lifetime::Unlimited => {}
        Lifetime::Idle { seconds } => write!(out, ", expires after {seconds} s without use")?,
        Lifetime::Until { text, .. } => write!(out, ", expires at {text}")?,
    }
    if stream.is_closed {
        write!(out, ", closed")?;
    }
    if stream.is_deleted {
        write!(out, ", deleted, but read by forks")?;
    }
    writeln!(out)
}

fn listen(options: Listen) -> Result<(), Box<dyn Error>> {
    match options.source() {
        Source::Channels(options) => {
            let listener = Listener::new(options);
            stop_on_signal_or_closed_output(&listener.stop_handle())?;
            listener.run(&mut io::stdout(), &mut io::stderr())?;
        }
        Source::Stream(options) => {
            let reader = StreamReader::new(options);
            stop_on_signal_or_closed_output(&reader.stop_handle())?;
            reader.run(&mut io::stdout())?;
        }
    }
    Ok(())
}

/// Starts threads that stop the client on a signal, or when the reader of its output has gone.
fn stop_on_signal_or_closed_output(client: &StopHandle) -> io::Result<()> {
    let (on_signal, on_closed_output) = (client.clone(), client.clone());
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        signals.forever().next();
        stop(on_signal);
    })?;
    thread::Builder::new().name("reader-gone".into()).spawn(move || {
        wait_for_closed_output();
        stop(on_closed_output);
    })?;
    Ok(())
}

/// Stops `listen`, and exits the process if it has not stopped after [`STOP_TIMEOUT`].
fn stop(client: StopHandle) {
    client.stop();
    // `stop` ends pauses and reads. If the client is in a name lookup or a blocked write to standard
    // output, which `stop` cannot end, the process exits here.
    thread::sleep(STOP_TIMEOUT);
    process::exit(0);
}

/// Returns when the program that reads standard output has closed its end.
///
/// If standard output is a pipe, the kernel reports the closed end without a write. If standard
/// output is a file, this function never returns.
fn wait_for_closed_output() {
    let stdout = io::stdout();
    loop {
        let mut out = [PollFd::new(&stdout, PollFlags::empty())];
        match poll(&mut out, None) {
            Ok(_) if out[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => return,
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => loop {
                thread::park(); // `poll` does not work here; a later write reports a closed output
            },
        }
    }
}

fn load(options: &crate::cli::Load) -> Result<(), Box<dyn Error>> {
    let report = load::run(options, &*stop_on_signal()?)?;
    if options.json {
        return print_line(&report.json());
    }
    print_line(&report)
}

/// Returns a flag that SIGINT and SIGTERM set. A second signal exits immediately.
fn stop_on_signal() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

#[cfg(feature = "lab")]
fn lab(options: Lab) -> Result<(), Box<dyn Error>> {
    if let Some((name, room)) = options.engine() {
        let engine = lab::engine::Engine::named(name).ok_or("no engine has this name")?;
        return Ok(engine.run(room, io::stdout())?);
    }
    if let Some((server, path)) = options.load_clients_of() {
        return Ok(lab::load_clients::run(server, path, io::stdout())?);
    }
    let options = lab::Options::of(options, env::current_exe()?);
    let stop = stop_on_signal()?;
    let results = lab::run(&options, &stop, &mut show_progress);
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "{CLEAR_LINE}");
    }
    let results = results?;
    print_line(&lab::report::text(&results))?;
    if let Some(folder) = &options.out {
        print_line(&lab::report::write(&results, folder)?.display())?;
    }
    Ok(())
}

/// Returns to the start of a terminal's line, and clears the line (ECMA-48).
#[cfg(feature = "lab")]
const CLEAR_LINE: &str = "\r\x1b[K";

/// Shows the progress of the lab on one line, if standard error is a terminal.
#[cfg(feature = "lab")]
fn show_progress(progress: &lab::Progress) {
    let mut out = io::stderr();
    if !out.is_terminal() {
        return;
    }
    let percent = 100 * progress.done.as_secs() / progress.planned.as_secs().max(1);
    let left = humantime::format_duration(Duration::from_secs(progress.left.as_secs()));
    // A failure to show the progress must not end the lab.
    let _ = write!(out, "{CLEAR_LINE}{percent:>3} %  {left} left  {}", progress.what);
}
