//! Runs Debian's Apache in front of threadcast, as a child process with the lab's configuration.
//!
//! ```text
//!   apache-prefork   client ── a process of Apache's ── the script's process ─┐
//!   apache-event     client ── a thread of Apache's, mod_proxy ───────────────┴── the hub: `direct`
//! ```
//!
//! Apache only forwards a stream, so both variants need a hub that publishes the events. Here the
//! hub is threadcast in this process; a PHP site would use Redis. Apache and the hub form one
//! engine, so the engine's cost includes the hub. This process starts Apache, and ends all of
//! Apache's processes when stdin ends.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::{Pid, Signal, geteuid, kill_process_group};
use sse_load::process::{find_program, wait_until};
use threadcast::Delivery;

use super::same::PATH;
use super::{publisher, threads};

/// The folder where Debian installs Apache's modules.
const MODULES: &str = "/usr/lib/apache2/modules";

/// The number of threads in each process of `mpm_event`. It is Debian's `ThreadLimit`.
const THREADS: u64 = 64;

/// The size of the file that `slow.cgi` reads, in bytes.
const COLD: usize = 16 * 1024 * 1024;

/// Apache's multi-processing module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mpm {
    Prefork,
    Event,
}

impl Mpm {
    /// Checks that Apache is installed. The error says how to install it.
    pub(super) fn find(self) -> Result<(), String> {
        let modules: &[&str] = match self {
            Self::Prefork => &["mpm_prefork", "cgi", "alias", "env"],
            Self::Event => &["mpm_event", "proxy", "proxy_http"],
        };
        let there = |module: &&str| Path::new(MODULES).join(format!("mod_{module}.so")).is_file();
        let whole = find_program("apache2").is_some() && modules.iter().all(there);
        whole
            .then_some(())
            .ok_or("Debian's Apache not found; install it with apt-get install apache2".to_owned())
    }

    /// Returns the default number of connections that Apache serves at a time. The lab opens fewer
    /// connections than this.
    fn workers(self) -> u64 {
        match self {
            Self::Prefork => 256,
            Self::Event => 128 * THREADS,
        }
    }

    fn configuration(self) -> &'static str {
        match self {
            Self::Prefork => include_str!("prefork.conf"),
            Self::Event => include_str!("event.conf"),
        }
    }
}

/// Runs Apache and the hub until stdin ends. `workers` is the maximum number of Apache's workers.
pub(super) fn run(mpm: Mpm, workers: Option<u64>, mut out: impl Write) -> io::Result<()> {
    let hub = threads::bind(Delivery::Direct)?;
    let registry = hub.registry().clone();
    let workers = workers.unwrap_or_else(|| mpm.workers()).max(1);
    let mut apache = match Apache::start(mpm, workers, hub.addresses()[0]) {
        Ok(apache) => apache,
        Err(error) => {
            // The lab reads the engine's address from this line. If the line contains an error
            // instead, the lab reports the error.
            writeln!(out, "{error}")?;
            return Err(error);
        }
    };
    thread::Builder::new().name("hub".into()).spawn(move || hub.run())?;
    writeln!(out, "{}", apache.address)?;
    let (group, ended) = (apache.group(), Arc::new(AtomicBool::new(false)));
    let ending = Arc::clone(&ended);
    let end = move || {
        ending.store(true, Ordering::Relaxed);
        kill(group);
    };
    let publish = move || publisher::run(&registry, end);
    thread::Builder::new().name("publisher".into()).spawn(publish)?;
    let status = apache.child.wait()?;
    if ended.load(Ordering::Relaxed) {
        return Ok(());
    }
    Err(io::Error::other(format!("Apache ended ({status}): {}", apache.last_error())))
}

/// A running Apache. Dropping this value ends all of Apache's processes and removes its folder.
struct Apache {
    child: Child,
    address: SocketAddr,
    root: PathBuf,
}

impl Apache {
    fn start(mpm: Mpm, workers: u64, hub: SocketAddr) -> io::Result<Self> {
        let root = folder()?;
        // Apache cannot choose a free port itself. So the kernel chooses one here, and Apache uses
        // it a moment later.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        write(&root, mpm, workers, hub, address)?;
        let mut apache = Self { child: command(&root)?.spawn()?, address, root };
        let mut died = false;
        wait_until(|| {
            died = !matches!(apache.child.try_wait(), Ok(None));
            died || TcpStream::connect(address).is_ok()
        });
        if died || TcpStream::connect(address).is_err() {
            return Err(io::Error::other(format!("Apache did not start: {}", apache.last_error())));
        }
        Ok(apache)
    }

    fn group(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// Returns the last line of Apache's error log.
    fn last_error(&self) -> String {
        let log = fs::read_to_string(self.root.join("error.log")).unwrap_or_default();
        log.lines().last().unwrap_or("its error log is empty").to_owned()
    }
}

impl Drop for Apache {
    fn drop(&mut self) {
        kill(self.group());
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Kills Apache and its scripts. Killing is safe, because they store no data.
fn kill(group: Option<Pid>) {
    if let Some(group) = group {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Creates a folder that Apache's user can read. The folder is in `/var/tmp` if possible, because
/// the slow script must read a file from a disk, and `/tmp` may be in memory.
fn folder() -> io::Result<PathBuf> {
    let disk = Path::new("/var/tmp");
    let parent = if disk.is_dir() { disk.to_owned() } else { env::temp_dir() };
    // `create_dir` fails if the folder exists, so no other user can have placed a script in it.
    let name = format!("threadcast-apache-{}-{:08x}", std::process::id(), fastrand::u32(..));
    let root = parent.join(name);
    fs::create_dir(&root)?;
    fs::set_permissions(&root, PermissionsExt::from_mode(0o755))?;
    Ok(root)
}

/// Writes all files that Apache reads.
fn write(
    root: &Path,
    mpm: Mpm,
    workers: u64,
    hub: SocketAddr,
    address: SocketAddr,
) -> io::Result<()> {
    let file = |name: &str, mode, bytes: &[u8]| {
        let path = root.join(name);
        fs::write(&path, bytes)?;
        fs::set_permissions(path, PermissionsExt::from_mode(mode))
    };
    let threads = THREADS.min(workers);
    let processes = workers / threads;
    let mut configuration = include_str!("common.conf").to_owned() + mpm.configuration();
    if geteuid().is_root() {
        configuration += "User www-data\nGroup www-data\n";
    }
    for (name, value) in [
        ("$ROOT", root.display().to_string()),
        ("$MODULES", MODULES.to_owned()),
        ("$LISTEN", address.to_string()),
        ("$HUB", hub.to_string()),
        ("$CHANNEL", PATH.to_owned()),
        ("$THREADS", threads.to_string()),
        ("$PROCESSES", processes.to_string()),
        (
            "$WORKERS",
            match mpm {
                Mpm::Prefork => workers.to_string(),
                Mpm::Event => (processes * threads).to_string(),
            },
        ),
    ] {
        configuration = configuration.replace(name, &value);
    }
    file("apache.conf", 0o644, configuration.as_bytes())?;
    if mpm == Mpm::Prefork {
        file("stream.cgi", 0o755, include_bytes!("stream.cgi"))?;
        file("slow.cgi", 0o755, include_bytes!("slow.cgi"))?;
        file("cold", 0o644, &vec![7; COLD])?;
        fs::File::open(root.join("cold"))?.sync_all()?;
    }
    Ok(())
}

/// Returns the command that runs Apache in the foreground, in a process group that includes its
/// scripts.
fn command(root: &Path) -> io::Result<Command> {
    let apache = find_program("apache2").ok_or(io::ErrorKind::NotFound)?;
    // If this process is killed, the kernel sends Apache SIGTERM.
    let mut command = match find_program("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "TERM"]).arg(apache);
            command
        }
        None => Command::new(apache),
    };
    command.arg("-f").arg(root.join("apache.conf")).arg("-DFOREGROUND");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    Ok(command)
}
