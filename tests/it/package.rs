//! What an operator installs: the units, the package and the binary of `make dist`, the image, and
//! the crate.
//!
//! Tests cannot rely on a running systemd. So `systemd-analyze` checks the units, and the tests
//! start the installed server by hand as the unit describes. `make dist-check` runs all tests, as
//! root, and `make arm64-check` those for arm64; a plain test run checks only the units.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::common::{Process, TIMEOUT, say, skip};

const UNITS: [&str; 2] = ["threadcast.socket", "threadcast.service"];

/// The folder into which the package installs its units.
const INSTALLED: &str = "/usr/lib/systemd/system";

/// The user id of `nobody`, an unprivileged user like that of `DynamicUser=`.
const NOBODY: u32 = 65_534;

/// The kernel's default for `vm.max_map_count`.
const MAPPINGS: usize = 65_530;
/// The number of memory mappings of a client's thread of the service (`src/capacity/system.rs`).
const MAPPINGS_OF_A_CLIENT: usize = 2;

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Runs a command in a shell and returns its output. Panics if it fails.
fn shell(command: &str) -> String {
    let output = run(Command::new("sh").args(["-c", command]));
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{command}: {text}");
    text
}

/// Creates a folder that every user can read.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("threadcast-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("the folder is writable");
    folder
}

/// Returns the values of a setting in a unit, in the order of the file.
fn settings(unit: &str, name: &str) -> Vec<String> {
    let text = fs::read_to_string(unit).expect("the unit exists");
    let values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    values.map(str::to_owned).collect()
}

fn setting(unit: &str, name: &str) -> String {
    settings(unit, name).pop().unwrap_or_else(|| panic!("{unit} has no {name}="))
}

/// Checks the units in a folder with `systemd-analyze`. The program that they start must be
/// installed.
fn check_units(folder: &Path) {
    let units = UNITS.map(|unit| folder.join(unit));
    let verified = run(Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units));
    let warnings = String::from_utf8_lossy(&verified.stderr);
    let ours: Vec<&str> = warnings.lines().filter(|line| line.contains("threadcast")).collect();
    assert!(verified.status.success() && ours.is_empty(), "{warnings}");
    let exposure = run(Command::new("systemd-analyze")
        .args(["security", "--no-pager", "--offline=true", "--threshold=20"])
        .arg(&units[1]));
    let table = String::from_utf8_lossy(&exposure.stdout);
    assert!(exposure.status.success(), "the exposure level is above 2.0:\n{table}");
    say(table.lines().last().expect("the sum is the last line"));
}

#[test]
fn systemd_accepts_the_units_and_rates_them_safe() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return skip("systemd-analyze is not installed; sudo apt-get install systemd");
    }
    let folder = folder("units");
    for unit in UNITS {
        let text = fs::read_to_string(Path::new("packaging").join(unit)).expect("a unit");
        let here = text.replace("/usr/bin/threadcast", env!("CARGO_BIN_EXE_threadcast"));
        fs::write(folder.join(unit), here).expect("the folder is writable");
    }
    check_units(&folder);
    fs::remove_dir_all(folder).expect("the folder is writable");
}

#[test]
fn unit_limits_are_above_the_kernel_limits() {
    for name in ["LimitNOFILE", "TasksMax"] {
        let limit: usize = setting("packaging/threadcast.service", name).parse().expect("a number");
        assert!(limit > MAPPINGS / MAPPINGS_OF_A_CLIENT + 100, "{name}={limit}");
    }
}

/// Returns the files and folders of the system whose name contains `threadcast`.
fn traces() -> BTreeSet<String> {
    let places = "/etc /usr /var /run/systemd";
    shell(&format!(
        "find {places} -name '*threadcast*' -not -path '*/threadcast-*' 2>/dev/null || true"
    ))
    .lines()
    .map(str::to_owned)
    .collect()
}

/// Returns the system calls of one of systemd's sets, including those of nested sets.
fn system_calls(set: &str) -> BTreeSet<String> {
    let output = run(Command::new("systemd-analyze").args(["syscall-filter", "--no-pager", set]));
    let text = String::from_utf8(output.stdout).expect("names are ASCII");
    let names = text.lines().skip(1).map(str::trim).filter(|line| !line.starts_with('#'));
    names.fold(BTreeSet::new(), |mut all, name| {
        if name.starts_with('@') {
            all.extend(system_calls(name));
        } else {
            all.insert(name.to_owned());
        }
        all
    })
}

/// Panics if the trace contains a call that the service's sandbox would reject.
fn check_system_calls(trace: &str) {
    let mut allowed = BTreeSet::new();
    for filter in settings(&format!("{INSTALLED}/threadcast.service"), "SystemCallFilter") {
        let (sets, denied) =
            filter.strip_prefix('~').map_or((&*filter, false), |sets| (sets, true));
        for name in sets.split(' ').flat_map(system_calls) {
            if denied {
                allowed.remove(&name)
            } else {
                allowed.insert(name)
            };
        }
    }
    // Each line of the trace begins with the thread's id.
    let calls = trace
        .lines()
        .filter_map(|line| line.split_once(char::is_whitespace))
        .map(|(_, call)| call.trim());
    let mut seen = 0;
    for call in calls.filter(|call| !call.starts_with(['<', '+', '-'])) {
        let name = call.split('(').next().expect("split yields a part");
        assert!(allowed.contains(name), "SystemCallFilter= rejects {call}");
        assert!(
            name != "socket" || call.contains("AF_UNIX"),
            "RestrictAddressFamilies= rejects {call}"
        );
        assert!(
            !(call.contains("PROT_WRITE") && call.contains("PROT_EXEC")),
            "MemoryDenyWriteExecute= rejects {call}"
        );
        seen += 1;
    }
    assert!(seen > 100, "the trace is too short:\n{trace}");
}

#[test]
#[ignore = "needs the package and root: run `make dist-check`"]
fn package_installs_serves_and_uninstalls_cleanly() {
    let packages = fs::read_dir("target/dist").expect("`make dist` has run");
    let mut packages = packages.map(|entry| entry.expect("a readable entry").path());
    let package = packages.find(|path| path.extension().is_some_and(|end| end == "deb"));
    let package = package.expect("`make dist` has built a package").display().to_string();
    shell(&format!("lintian --allow-root --fail-on error,warning {package}"));

    let before = traces();
    assert!(!before.contains("/usr/bin/threadcast"), "the package is already installed");
    shell(&format!("dpkg --install {package}"));
    let folder = folder("package");
    let served = std::panic::catch_unwind(|| serve_as_the_unit_does(&folder));
    shell("dpkg --remove threadcast");
    assert!(
        Path::new("/etc/default/threadcast").exists(),
        "the operator's configuration was removed"
    );
    shell("dpkg --purge threadcast");
    assert_eq!(traces(), before);
    fs::remove_dir_all(folder).expect("the folder is writable");
    if let Err(failure) = served {
        std::panic::resume_unwind(failure);
    }
}

/// Runs the installed server in the environment that its units describe: a listener, a
/// notification socket, its own network namespace, no capabilities, and a state directory.
fn serve_as_the_unit_does(folder: &Path) {
    check_units(Path::new(INSTALLED));
    for link in
        ["sockets.target.wants/threadcast.socket", "multi-user.target.wants/threadcast.service"]
    {
        assert!(Path::new("/etc/systemd/system").join(link).exists(), "{link} does not exist");
    }
    let service = format!("{INSTALLED}/threadcast.service");
    let [command, descriptors] = ["ExecStart", "LimitNOFILE"].map(|name| setting(&service, name));
    let (launcher, program) = command.rsplit_once(' ').expect("env starts the program");
    let state = Path::new("/var/lib").join(setting(&service, "StateDirectory"));
    fs::create_dir(&state).expect("the folder does not exist yet");
    for owned in [&state, folder] {
        chown(owned, Some(NOBODY), Some(NOBODY)).expect("the test runs as root");
    }
    let notified = folder.join("notify");
    let notifications = UnixDatagram::bind(&notified).expect("the path is free");
    notifications.set_read_timeout(Some(TIMEOUT)).expect("a positive timeout");
    fs::set_permissions(&notified, fs::Permissions::from_mode(0o666)).expect("the socket exists");
    let next = || {
        let mut message = [0; 256];
        let length = notifications.recv(&mut message).expect("a message before the timeout");
        String::from_utf8_lossy(&message[..length]).trim().to_owned()
    };

    let (notified, trace, store) =
        (notified.display(), folder.join("trace"), state.join("history.redb"));
    let before = format!(
        "NOTIFY_SOCKET='{notified}' WATCHDOG_USEC=300000 THREADCAST_STORE='{}'; \
         export LISTEN_FDS LISTEN_PID NOTIFY_SOCKET WATCHDOG_USEC THREADCAST_STORE; \
         ulimit -n {descriptors}; cd /; exec unshare --net \
         setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --no-new-privs --bounding-set=-all \
         strace -D -f -o '{}' {launcher}",
        store.display(),
        trace.display(),
    );
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let mut server = Process::unit(program, &before, &listener, "");
    let messages: Vec<String> = (0..3).map(|_| next()).collect();
    assert!(messages.iter().any(|message| message == "READY=1"), "{messages:?}");
    assert!(messages.iter().any(|message| message == "WATCHDOG=1"), "{messages:?}");

    let mut stream = server.stream("/channels/news");
    let published = server.request(
        "POST /channels/news HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
    );
    assert_eq!(published.status, 200);
    let mut received = String::new();
    while !received.contains("data: hello\n") {
        received += &stream.chunk().expect("the stream continues");
    }
    assert_eq!(server.get("/").status, 200);

    server.signal("TERM");
    while next() != "STOPPING=1" {}
    assert_eq!(server.child.wait().expect("the server is a child process").code(), Some(0));
    assert!(store.exists(), "the store is in the state directory");
    check_system_calls(&fs::read_to_string(&trace).expect("strace wrote it"));
}

#[test]
#[ignore = "needs the binary and root: run `make dist-check`"]
fn binary_runs_in_an_empty_root_directory() {
    let dockerfile =
        fs::read_to_string("packaging/Dockerfile").expect("the file is in the repository");
    let argument = |instruction: &str| {
        let line = dockerfile.lines().find_map(|line| line.strip_prefix(instruction));
        line.unwrap_or_else(|| panic!("no {instruction}")).trim().to_owned()
    };
    assert_eq!(
        (argument("FROM"), argument("COPY")),
        ("scratch".into(), "threadcast /threadcast".into())
    );
    assert_eq!(argument("ENTRYPOINT"), r#"["/threadcast"]"#);

    let root = folder("scratch");
    fs::copy("target/dist/threadcast", root.join("threadcast")).expect("`make dist` has run");
    let inside = format!("exec chroot --userspec={} '{}'", argument("USER"), root.display());
    let server = Process::copy("/threadcast", &inside);
    assert_eq!(server.get("/").status, 200);
    let mut stream = server.stream("/stream");
    stream.chunk().expect("the preamble");
    let date = stream.chunk().expect("the first event");
    assert!(date.contains("GMT+0000"), "without time zone files the time is UTC: {date}");

    let publish = |url: &str| {
        let publish = format!("{inside} /threadcast publish --url {url} news hello");
        run(Command::new("sh").args(["-c", &publish]))
    };
    let published = publish(&format!("http://{}", server.addr));
    assert!(published.status.success(), "{published:?}");
    let unknown = publish("http://nobody.invalid");
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("\nthreadcast: "), "{unknown:?}");
    drop(server);
    let left: Vec<_> = fs::read_dir(&root).expect("the folder is readable").collect();
    assert_eq!(left.len(), 1, "{left:?}");
    fs::remove_dir_all(root).expect("the folder is writable");
}

/// The image that `make image` has built of the binary for this machine.
#[test]
#[ignore = "needs the image and root: run `make dist-check`"]
fn image_has_the_binary_alone_and_serves() {
    let images = fs::read_dir("target/dist").expect("`make dist` has run").flatten();
    let mut images = images.map(|entry| entry.path().display().to_string());
    let architecture = shell("dpkg --print-architecture").trim().to_owned();
    let image = images.find(|path| path.ends_with(&format!("/image-{architecture}.tar")));
    let image = image.expect("`make image` has written it");
    let folder = folder("image");
    shell(&format!("tar --extract --file '{image}' --directory '{}'", folder.display()));
    let json = |name: &str| -> Value {
        let text = fs::read_to_string(folder.join(name)).expect("a file of the image");
        serde_json::from_str(&text).expect("JSON")
    };
    let manifest = &json("manifest.json")[0];
    let config = json(manifest["Config"].as_str().expect("a name"));
    assert_eq!((&config["architecture"], &config["os"]), (&architecture.into(), &"linux".into()));
    let config = &config["config"];
    assert_eq!(config["Entrypoint"], json!(["/threadcast"]));
    assert_eq!(config["Healthcheck"]["Test"], json!(["CMD", "/threadcast", "healthcheck"]));
    assert_eq!(config["User"], "65534:65534");
    let variables = config["Env"].as_array().expect("a list");
    assert!(variables.contains(&"THREADCAST_LISTEN=0.0.0.0:8844".into()), "{config}");

    let layers = manifest["Layers"].as_array().expect("a list");
    let layer = folder.join(layers[0].as_str().expect("a name")).display().to_string();
    assert_eq!(
        (layers.len(), shell(&format!("tar --list --file '{layer}'"))),
        (1, "threadcast\n".into())
    );
    let root = folder.join("root");
    fs::create_dir(&root).expect("the folder is writable");
    shell(&format!("tar --extract --file '{layer}' --directory '{}'", root.display()));
    let inside = format!("exec chroot --userspec=65534:65534 '{}'", root.display());
    let server = Process::copy("/threadcast", &inside);
    shell(&format!("{inside} /threadcast healthcheck http://{}", server.addr));
    drop(server);
    fs::remove_dir_all(folder).expect("the folder is writable");
}

/// Installs the program from the packaged crates, as `cargo install threadcast` does. `sse-load` comes
/// from its package too, because neither crate is on a registry.
#[test]
#[ignore = "compiles the program: run `make dist-check`"]
fn packaged_crate_installs_with_cargo_install() {
    let folder = folder("crate");
    let cargo = env!("CARGO");
    shell(&format!("'{cargo}' package --workspace --locked --no-verify --allow-dirty"));
    for package in ["threadcast", "sse-load"] {
        let package = format!("target/package/{package}-{}.crate", env!("CARGO_PKG_VERSION"));
        shell(&format!("tar --extract --gzip --file {package} --directory '{}'", folder.display()));
    }
    let at = |name: &str| folder.join(format!("{name}-{}", env!("CARGO_PKG_VERSION")));
    let patch = format!("patch.crates-io.sse-load.path=\"{}\"", at("sse-load").display());
    shell(&format!(
        "CARGO_TARGET_DIR=target/installed '{cargo}' install --debug --locked --path '{}' \
         --root '{}' --config '{patch}'",
        at("threadcast").display(),
        folder.display(),
    ));
    let program = folder.join("bin/threadcast").display().to_string();
    let version = format!("threadcast {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(shell(&format!("'{program}' --version")), version);
    let server = Process::copy(&program, "exec");
    assert_eq!(server.get("/").status, 200, "the pages are in the program");
    drop(server);
    fs::remove_dir_all(folder).expect("the folder is writable");
}

#[test]
#[ignore = "needs the binary for arm64 and qemu: run `make arm64-check`"]
fn arm64_binary_serves_under_qemu() {
    let binary =
        fs::canonicalize("target/dist/arm64/threadcast").expect("`make dist-arm64` has run");
    let binary = binary.display().to_string();
    assert!(shell(&format!("qemu-aarch64 '{binary}' doctor")).contains("clients"));
    let mut server = Process::copy(&binary, "exec qemu-aarch64");
    let mut stream = server.stream("/channels/news");
    stream.first_frame();
    let published = server.request(
        "POST /channels/news HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
    );
    assert_eq!(published.status, 200, "{published:?}");
    let event = stream.chunk().expect("the stream continues");
    assert!(event.ends_with("\ndata: hello\n\n"), "{event}");
    // TLS has code of its own for each architecture.
    let publish = format!("qemu-aarch64 '{binary}' publish --url https://{} news x", server.addr);
    let refused = run(Command::new("sh").args(["-c", &publish]));
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("may not use TLS"), "{error}");
    server.signal("TERM");
    stream.assert_drained();
    assert_eq!(server.child.wait().expect("a child process").code(), Some(0));
}

#[test]
#[ignore = "needs the package for arm64: run `make arm64-check`"]
fn arm64_package_is_sound() {
    let packages = fs::read_dir("target/dist/arm64").expect("`make dist-arm64` has run").flatten();
    let mut packages = packages.map(|entry| entry.path());
    let package = packages.find(|path| path.extension().is_some_and(|it| it == "deb"));
    let package = package.expect("a package").display().to_string();
    assert_eq!(shell(&format!("dpkg-deb --field '{package}' Architecture")), "arm64\n");
    shell(&format!("lintian --allow-root --fail-on error,warning '{package}'"));
}
