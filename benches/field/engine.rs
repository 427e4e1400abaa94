//! The engines: how each is built and started, and what to install for one that is missing.
//!
//! A peer prints its address when it listens, serves the stream, and takes orders on stdin, one a
//! line: `<events a second> <bytes of a frame>`. The end of stdin ends it. Only nchan cannot: it is
//! published to from here (see [`crate::nchan`]).

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use threadcast::lab::engine::find;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Floor,
    Direct,
    Wake,
    Axum,
    Nchan,
    Node,
    Go,
}

/// All engines, in the order of a run.
pub const ALL: [Engine; 7] = [
    Engine::Floor,
    Engine::Direct,
    Engine::Wake,
    Engine::Axum,
    Engine::Nchan,
    Engine::Node,
    Engine::Go,
];

/// A program that is there and can be started.
#[derive(Debug)]
pub enum Start {
    /// A peer that obeys the orders above.
    Peer { program: PathBuf, arguments: Vec<String> },
    /// nginx with this configuration template.
    Nchan { nginx: PathBuf, module: PathBuf, template: PathBuf },
}

impl Engine {
    pub fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Direct => "direct",
            Self::Wake => "wake",
            Self::Axum => "axum",
            Self::Nchan => "nchan",
            Self::Node => "node",
            Self::Go => "go",
        }
    }

    /// What the table calls it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Floor => "bare `send` loop: the floor",
            Self::Direct => "**threadcast direct**",
            Self::Wake => "threadcast wake",
            Self::Axum => "axum 0.8 / tokio",
            Self::Nchan => "nchan in nginx ¹",
            Self::Node => "Node `http`",
            Self::Go => "Go `net/http`",
        }
    }

    /// The stream's path.
    pub fn path(self) -> &'static str {
        if matches!(self, Self::Direct | Self::Wake) { "/channels/bench" } else { "/bench" }
    }

    /// Builds it where it must be built. The error says what is missing and how to get it.
    pub fn prepare(self) -> Result<Start, String> {
        let peers = manifest().join("benches/peers");
        match self {
            Self::Floor => example("peer_floor", &[]),
            // cargo has built the program for this bench.
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
                let go = find("go").ok_or("no `go` on the PATH: apt install golang-go")?;
                let program = target_folder().join("peers/go_net_http");
                let mut build = Command::new(go);
                build.arg("build").arg("-o").arg(&program).arg(peers.join("go_net_http.go"));
                run(&mut build, "apt install golang-go")?;
                Ok(peer(program, &[]))
            }
            Self::Node => {
                let node = find("node").ok_or("no `node` on the PATH: apt install nodejs")?;
                Ok(peer(node, &["-e", threadcast::lab::engine::NODE]))
            }
            Self::Nchan => {
                const HOW: &str = "apt install nginx libnginx-mod-nchan";
                let nginx = find("nginx").ok_or(format!("no `nginx` on the PATH: {HOW}"))?;
                let module = PathBuf::from("/usr/lib/nginx/modules/ngx_nchan_module.so");
                if !module.exists() {
                    return Err(format!("nginx has no nchan module: {HOW}"));
                }
                Ok(Start::Nchan { nginx, module, template: peers.join("nchan.conf") })
            }
        }
    }
}

fn peer(program: PathBuf, arguments: &[&str]) -> Start {
    Start::Peer { program, arguments: arguments.iter().map(ToString::to_string).collect() }
}

/// One of this package's own examples, built like the bench itself.
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

/// Runs a build; its last line of complaint is the error.
fn run(command: &mut Command, hint: &str) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let first = complaint.lines().find(|line| line.starts_with("error")).unwrap_or("it failed");
    Err(format!("not built ({first}): {hint}"))
}

fn manifest() -> PathBuf {
    env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from)
}

/// Where this bench was built: its program is in `deps` below.
fn release_folder() -> PathBuf {
    let program = env::current_exe().expect("Linux knows the path of a program");
    program.ancestors().nth(2).expect("target/release/deps/field").to_path_buf()
}

fn target_folder() -> PathBuf {
    release_folder().parent().expect("target/release").to_path_buf()
}
