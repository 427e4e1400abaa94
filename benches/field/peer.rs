//! A running engine: its process, and the way to set its traffic.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sse_load::process::{Cores, Process, wait_until};
use sse_load::tick::Traffic;

use crate::engine::Start;
use crate::nchan::Publisher;

/// A running engine. Dropping this value stops the engine.
#[derive(Debug)]
pub struct Peer {
    process: Process,
    server: SocketAddr,
    /// Only for nchan: the publisher, because nchan publishes no events itself, and the folder with
    /// nginx's files, which is removed at the end.
    nchan: Option<(Publisher, PathBuf)>,
}

impl Peer {
    pub fn start(start: &Start, cores: Cores) -> io::Result<Self> {
        match start {
            Start::Peer { program, arguments } => {
                let mut command = Command::new(program);
                let (process, server) = Process::start_engine(command.args(arguments), cores)?;
                Ok(Self { process, server, nchan: None })
            }
            Start::Nchan { nginx, module, template } => {
                // nginx cannot choose a free port itself, so the kernel chooses one here, and nginx
                // uses it a moment later.
                let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
                let folder = configure(template, module, free)?;
                let mut command = Command::new(nginx);
                command.arg("-p").arg(&folder).arg("-e").arg(folder.join("error.log"));
                command.arg("-c").arg(folder.join("nginx.conf")).stdin(Stdio::null());
                let mut process = Process::start(&mut command, cores)?;
                wait_until(|| TcpStream::connect(free).is_ok());
                match Publisher::start(free) {
                    Ok(publisher) => {
                        Ok(Self { process, server: free, nchan: Some((publisher, folder)) })
                    }
                    Err(error) => {
                        process.terminate();
                        let _ = fs::remove_dir_all(folder);
                        Err(error)
                    }
                }
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
        match &mut self.nchan {
            Some((publisher, _)) => publisher.set_traffic(rate, frame),
            None => self.process.set_traffic(Traffic { rate, frame }),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some((publisher, folder)) = &mut self.nchan {
            publisher.stop();
            self.process.terminate(); // after SIGKILL, nginx's worker would keep running
            let _ = fs::remove_dir_all(folder);
        }
    }
}

fn configure(template: &Path, module: &Path, server: SocketAddr) -> io::Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("threadcast-nchan-{}", server.port()));
    fs::create_dir_all(&folder)?;
    let text = fs::read_to_string(template)?
        .replace("@MODULE@", &module.to_string_lossy())
        .replace("@PORT@", &server.port().to_string())
        .replace("@DIR@", &folder.to_string_lossy());
    fs::write(folder.join("nginx.conf"), text)?;
    Ok(folder)
}
