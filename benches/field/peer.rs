//! A running engine: its process, and the way to set its traffic.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};

use sse_load::process::{Cores, Process, wait_until};
use sse_load::tick::Traffic;

use crate::engine::Start;
use crate::publisher::{Form, Publisher};

/// nchan assigns ids of the form `<seconds>:<number within the second>`.
const NCHAN: Form =
    Form { path: "/publish", around: "id: 1700000000:0\ndata: \n\n".len(), is_created: false };

/// A Durable Streams server sends an event with the data, and another with the reader's position.
const DURABLE: Form = Form { path: "", around: "event: data\ndata:\n\n".len(), is_created: true };

/// A running engine. Dropping this value stops the engine.
#[derive(Debug)]
pub struct Peer {
    process: Process,
    server: SocketAddr,
    /// The publisher of an engine that publishes no events itself, and the folder with the engine's
    /// files, which is removed at the end.
    published: Option<(Publisher, PathBuf)>,
}

impl Peer {
    pub fn start(start: &Start, cores: Cores) -> io::Result<Self> {
        match start {
            Start::Peer { program, arguments } => {
                let mut command = Command::new(program);
                let (process, server) = Process::start_engine(command.args(arguments), cores)?;
                Ok(Self { process, server, published: None })
            }
            Start::Nchan { nginx, module, template } => {
                let (free, folder) = (free_address()?, folder()?);
                configure(&folder, template, module, free, cores.server.iter().count())?;
                let mut command = Command::new(nginx);
                command.arg("-p").arg(&folder).arg("-e").arg(folder.join("error.log"));
                command.arg("-c").arg(folder.join("nginx.conf"));
                Self::start_with_publisher(command, cores, free, folder, NCHAN)
            }
            Start::DurableStreams { program, path, arguments } => {
                let (free, folder) = (free_address()?, folder()?);
                let mut command = Command::new(program);
                let (port, place) = (free.port().to_string(), folder.display().to_string());
                let filled = |it: &String| it.replace("PORT", &port).replace("FOLDER", &place);
                command.args(arguments.iter().map(filled));
                let form = Form { path, ..DURABLE };
                Self::start_with_publisher(command, cores, free, folder, form)
            }
        }
    }

    /// Starts an engine that listens on `server`, and its publisher.
    fn start_with_publisher(
        mut command: Command,
        cores: Cores,
        server: SocketAddr,
        folder: PathBuf,
        form: Form,
    ) -> io::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut process = Process::start(&mut command, cores)?;
        wait_until(|| TcpStream::connect(server).is_ok());
        match create(server, form).and_then(|()| Publisher::start(server, form)) {
            Ok(publisher) => Ok(Self { process, server, published: Some((publisher, folder)) }),
            Err(error) => {
                process.terminate();
                let _ = fs::remove_dir_all(folder);
                Err(error)
            }
        }
    }

    pub fn server(&self) -> SocketAddr {
        self.server
    }

    pub fn process(&self) -> u32 {
        self.process.id()
    }

    /// Sets the traffic: `rate` events per second in frames of `frame` bytes.
    pub fn set_traffic(&mut self, rate: u32, frame: usize) -> io::Result<()> {
        match &mut self.published {
            Some((publisher, _)) => publisher.set_traffic(rate, frame),
            None => self.process.set_traffic(Traffic { rate, frame }),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some((publisher, folder)) = &mut self.published {
            publisher.stop();
            self.process.terminate(); // after SIGKILL, nginx's worker would keep running
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// Returns a free address. The kernel chooses it, and an engine that cannot choose one itself uses
/// it a moment later.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// Creates a folder for an engine's files. It is not in `/tmp`, which may be in memory.
fn folder() -> io::Result<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-{}", process::id()));
    let _ = fs::remove_dir_all(&folder); // left by an engine that was killed
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Writes the configuration of nginx.
fn configure(
    folder: &Path,
    template: &Path,
    module: &Path,
    server: SocketAddr,
    workers: usize,
) -> io::Result<()> {
    let text = fs::read_to_string(template)?
        .replace("@MODULE@", &module.to_string_lossy())
        .replace("@WORKERS@", &workers.to_string())
        .replace("@PORT@", &server.port().to_string())
        .replace("@DIR@", &folder.to_string_lossy());
    fs::write(folder.join("nginx.conf"), text)
}

/// Creates the stream of a Durable Streams server; nchan's channels need no creation.
fn create(server: SocketAddr, form: Form) -> io::Result<()> {
    if !form.is_created {
        return Ok(());
    }
    let mut socket = TcpStream::connect(server)?;
    let path = form.path;
    write!(
        socket,
        "PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut response = String::new();
    socket.read_to_string(&mut response)?;
    if response.starts_with("HTTP/1.1 201") { Ok(()) } else { Err(io::Error::other(response)) }
}
