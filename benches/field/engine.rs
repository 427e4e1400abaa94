//! The engines of the comparison: how each is built and started, and what to install if it is
//! missing.
//!
//! A peer is an engine that is not threadcast. It prints its address when it listens, serves the
//! stream, and reads traffic settings from its stdin, one per line: `<events per second> <bytes of
//! a frame>`. It exits when stdin ends. nchan and the Durable Streams server cannot read settings, so
//! this program publishes their events (see [`crate::publisher`]).

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use sse_load::process::find_program;

/// The JavaScript source of the tutorials' server, which is an engine of the lab too.
const NODE: &str = include_str!("../../src/lab/engine/node.js");

/// An engine that can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Floor,
    /// The floor, with a thread per client.
    Threads,
    Direct,
    Wake,
    Axum,
    Nchan,
    Node,
    Go,
    /// A durable stream of threadcast.
    Durable,
    /// The makers' Durable Streams server.
    DurableStreams,
    /// A durable stream of threadcast, in a file.
    DurableFile,
    /// The makers' server with its write-ahead log.
    DurableStreamsFile,
}

/// All engines, in the order in which they are measured.
pub const ALL: [Engine; 12] = [
    Engine::Floor,
    Engine::Threads,
    Engine::Direct,
    Engine::Wake,
    Engine::Axum,
    Engine::Nchan,
    Engine::Node,
    Engine::Go,
    Engine::Durable,
    Engine::DurableStreams,
    Engine::DurableFile,
    Engine::DurableStreamsFile,
];

/// How to start an engine after it has been built.
#[derive(Debug)]
pub enum Start {
    /// A program that reads traffic settings from its stdin.
    Peer { program: PathBuf, arguments: Vec<String> },
    /// nginx with the nchan module and this configuration template.
    Nchan { nginx: PathBuf, module: PathBuf, template: PathBuf },
    /// A server of the Durable Streams protocol that serves the stream at `path`. In the arguments,
    /// `PORT` stands for a free port, and `FOLDER` for an empty folder.
    DurableStreams { program: PathBuf, path: &'static str, arguments: Vec<String> },
}

impl Engine {
    pub fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Threads => "threads",
            Self::Direct => "direct",
            Self::Wake => "wake",
            Self::Axum => "axum",
            Self::Nchan => "nchan",
            Self::Node => "node",
            Self::Go => "go",
            Self::Durable => "durable",
            Self::DurableStreams => "durable-streams",
            Self::DurableFile => "durable-file",
            Self::DurableStreamsFile => "durable-streams-file",
        }
    }

    /// Returns the engine's name in the tables.
    pub fn title(self) -> &'static str {
        match self {
            Self::Floor => "bare `send` loop: the floor",
            Self::Threads => "the floor, with a thread per client",
            Self::Direct => "**threadcast direct**",
            Self::Wake => "threadcast wake",
            Self::Axum => "axum 0.8 / tokio",
            Self::Nchan => "nchan in nginx ¹",
            Self::Node => "Node `http`",
            Self::Go => "Go `net/http`",
            Self::Durable => "threadcast, a durable stream ²",
            Self::DurableStreams => "Durable Streams server ²",
            Self::DurableFile => "threadcast, a durable stream in a file ³",
            Self::DurableStreamsFile => "Durable Streams server, with its log ³",
        }
    }

    /// Returns the path of the engine's stream.
    pub fn path(self) -> &'static str {
        match self {
            Self::Direct | Self::Wake => "/channels/bench",
            Self::Durable | Self::DurableFile => "/v1/stream/bench?offset=now&live=sse",
            Self::DurableStreams | Self::DurableStreamsFile => "/bench?offset=now&live=sse",
            _ => "/bench",
        }
    }

    /// Builds the engine if necessary. The error says which program is missing and how to install
    /// it.
    pub fn prepare(self) -> Result<Start, String> {
        let peers = manifest().join("benches/peers");
        match self {
            Self::Floor => example("peer_floor", &[]),
            Self::Threads => example("peer_floor", &["threads"]),
            // cargo builds the program together with this bench.
            Self::Direct | Self::Wake => {
                let program = env!("CARGO_BIN_EXE_threadcast").into();
                Ok(peer(program, &["lab", "engine", self.name()]))
            }
            Self::Axum => {
                let target = target_folder().join("peers");
                let mut cargo = cargo();
                cargo.arg("build").args(["--release", "--manifest-path"]);
                cargo.arg(peers.join("axum/Cargo.toml")).arg("--target-dir").arg(&target);
                run(&mut cargo, "needs crates.io the first time")?;
                Ok(peer(target.join("release/peer-axum"), &[]))
            }
            Self::Go => {
                let go = find_program("go")
                    .ok_or("no `go` on the PATH; install it with apt install golang-go")?;
                let program = target_folder().join("peers/go_net_http");
                let mut build = Command::new(go);
                build.arg("build").arg("-o").arg(&program).arg(peers.join("go_net_http.go"));
                run(&mut build, "apt install golang-go")?;
                Ok(peer(program, &[]))
            }
            Self::Node => {
                let node = find_program("node")
                    .ok_or("no `node` on the PATH; install it with apt install nodejs")?;
                Ok(peer(node, &["-e", NODE]))
            }
            Self::DurableStreams | Self::DurableStreamsFile => {
                let root = target_folder().join("peers");
                let mut install = cargo();
                install.args(["install", "--quiet", "--locked", "--version", "0.1.5", "--root"]);
                install.arg(&root).arg("durable-streams");
                run(&mut install, "needs crates.io the first time")?;
                let kind = if self == Self::DurableStreams { "memory" } else { "wal" };
                Ok(Start::DurableStreams {
                    program: root.join("bin/durable-streams-server"),
                    path: "/bench",
                    arguments: words(&format!("--durability {kind} --port PORT --data-dir FOLDER")),
                })
            }
            Self::Durable | Self::DurableFile => {
                let store = if self == Self::Durable { "" } else { " --store FOLDER/bench.redb" };
                Ok(Start::DurableStreams {
                    program: env!("CARGO_BIN_EXE_threadcast").into(),
                    path: "/v1/stream/bench",
                    arguments: words(&format!(
                        "--listen 127.0.0.1:PORT --durable-streams --durable-stream-limit 2GiB \
                         --durable-total 2GiB{store}"
                    )),
                })
            }
            Self::Nchan => {
                const HOW: &str = "apt install nginx libnginx-mod-nchan";
                let nginx = find_program("nginx")
                    .ok_or(format!("no `nginx` on the PATH; install it with {HOW}"))?;
                let module = PathBuf::from("/usr/lib/nginx/modules/ngx_nchan_module.so");
                if !module.exists() {
                    return Err(format!("nginx has no nchan module; install it with {HOW}"));
                }
                Ok(Start::Nchan { nginx, module, template: peers.join("nchan.conf") })
            }
        }
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn peer(program: PathBuf, arguments: &[&str]) -> Start {
    Start::Peer { program, arguments: arguments.iter().map(ToString::to_string).collect() }
}

/// Builds an example of this package into the target folder of this bench.
fn example(name: &str, arguments: &[&str]) -> Result<Start, String> {
    let mut build = cargo();
    build.args(["build", "--release", "--example", name, "--target-dir"]).arg(target_folder());
    run(&mut build, "see benches/peers")?;
    Ok(peer(release_folder().join("examples").join(name), arguments))
}

fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(manifest());
    cargo
}

/// Runs a build. The error contains the first error line that the build printed.
fn run(command: &mut Command, hint: &str) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let first = stderr.lines().find(|line| line.starts_with("error")).unwrap_or("the build failed");
    Err(format!("cannot build it ({first}): {hint}"))
}

fn manifest() -> PathBuf {
    env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from)
}

/// Returns the folder of this build, `target/release`. The bench's program is in its subfolder
/// `deps`.
fn release_folder() -> PathBuf {
    let program = env::current_exe().expect("Linux provides the program's path");
    program.ancestors().nth(2).expect("target/release/deps/field").to_path_buf()
}

fn target_folder() -> PathBuf {
    release_folder().parent().expect("target/release").to_path_buf()
}
