//! What an operator installs: the units, and the package and the binary of `make dist`.
//!
//! systemd does not run where tests run. So its own tools read the units, and the
//! installed server is started the way the unit says, by hand. `make dist-check` runs
//! all of it, as root; the units alone are looked at with every other test.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{Process, TIMEOUT, say};

const UNITS: [&str; 2] = ["threadcast.socket", "threadcast.service"];

/// Where the package puts its units.
const INSTALLED: &str = "/usr/lib/systemd/system";

/// Nobody in particular, as the user of `DynamicUser=` is.
const NOBODY: u32 = 65_534;

/// What `vm.max_map_count` is where nobody has raised it, and how much of that a
/// client's thread takes (`src/capacity.rs`).
const MAPPINGS: usize = 65_530;
const MAPPINGS_OF_A_CLIENT: usize = 4;

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Runs this in a shell; it has to succeed.
fn shell(command: &str) -> String {
    let output = run(Command::new("sh").args(["-c", command]));
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{command}: {said}");
    said
}

/// A new folder that anybody may look into.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("threadcast-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder of our own");
    folder
}

/// The values of a setting in a unit, in order.
fn settings(unit: &str, name: &str) -> Vec<String> {
    let text = fs::read_to_string(unit).expect("the unit is there");
    let values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    values.map(str::to_owned).collect()
}

fn setting(unit: &str, name: &str) -> String {
    settings(unit, name).pop().unwrap_or_else(|| panic!("{unit} has no {name}="))
}

/// What systemd says of the units in this folder, whose program is there.
fn look_at_units(folder: &Path) {
    let units = UNITS.map(|unit| folder.join(unit));
    let verified = run(Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units));
    let complaints = String::from_utf8_lossy(&verified.stderr);
    let ours: Vec<&str> = complaints.lines().filter(|line| line.contains("threadcast")).collect();
    assert!(verified.status.success() && ours.is_empty(), "{complaints}");
    let exposure = run(Command::new("systemd-analyze")
        .args(["security", "--no-pager", "--offline=true", "--threshold=20"])
        .arg(&units[1]));
    let table = String::from_utf8_lossy(&exposure.stdout);
    assert!(exposure.status.success(), "an exposure of more than 2.0:\n{table}");
    say(table.lines().last().expect("the sum is the last line"));
}

#[test]
fn systemd_takes_the_units_and_finds_them_safe() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return say("SKIPPED: there is no systemd-analyze here; sudo apt-get install systemd");
    }
    let folder = folder("units");
    for unit in UNITS {
        let text = fs::read_to_string(Path::new("packaging").join(unit)).expect("a unit");
        let here = text.replace("/usr/bin/threadcast", env!("CARGO_BIN_EXE_threadcast"));
        fs::write(folder.join(unit), here).expect("a folder of our own");
    }
    look_at_units(&folder);
    fs::remove_dir_all(folder).expect("ours");
}

#[test]
fn the_unit_does_not_bind_before_the_kernel_does() {
    for name in ["LimitNOFILE", "TasksMax"] {
        let limit: usize = setting("packaging/threadcast.service", name).parse().expect("a number");
        assert!(limit > MAPPINGS / MAPPINGS_OF_A_CLIENT + 100, "{name}={limit}");
    }
}

/// The files and folders of the system that are named after us.
fn traces() -> BTreeSet<String> {
    let places = "/etc /usr /var /run/systemd";
    shell(&format!(
        "find {places} -name '*threadcast*' -not -path '*/threadcast-*' 2>/dev/null || true"
    ))
    .lines()
    .map(str::to_owned)
    .collect()
}

/// The system calls that a set of systemd's lets through, those of the sets in it too.
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

/// Fails if the server did what the service's sandbox would have refused.
fn look_at_system_calls(trace: &str) {
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
    // Each line begins with the thread's number.
    let calls = trace
        .lines()
        .filter_map(|line| line.split_once(char::is_whitespace))
        .map(|(_, call)| call.trim());
    let mut seen = 0;
    for call in calls.filter(|call| !call.starts_with(['<', '+', '-'])) {
        let name = call.split('(').next().expect("split gives one");
        assert!(allowed.contains(name), "SystemCallFilter= refuses {call}");
        assert!(
            name != "socket" || call.contains("AF_UNIX"),
            "RestrictAddressFamilies= refuses {call}"
        );
        assert!(
            !(call.contains("PROT_WRITE") && call.contains("PROT_EXEC")),
            "MemoryDenyWriteExecute= refuses {call}"
        );
        seen += 1;
    }
    assert!(seen > 100, "this is no trace:\n{trace}");
}

#[test]
#[ignore = "`make dist-check` makes the package first, and it takes root to install it"]
fn the_package_is_clean_serves_by_its_units_and_leaves_nothing() {
    let packages = fs::read_dir("target/dist").expect("`make dist` was run");
    let mut packages = packages.map(|entry| entry.expect("a readable entry").path());
    let package = packages.find(|path| path.extension().is_some_and(|end| end == "deb"));
    let package = package.expect("`make dist` makes one").display().to_string();
    shell(&format!("lintian --allow-root --fail-on error,warning {package}"));

    let before = traces();
    assert!(!before.contains("/usr/bin/threadcast"), "the package is here already");
    shell(&format!("dpkg --install {package}"));
    let folder = folder("package");
    let served = std::panic::catch_unwind(|| serve_as_the_unit_does(&folder));
    shell("dpkg --remove threadcast");
    assert!(Path::new("/etc/default/threadcast").exists(), "what an operator wrote was removed");
    shell("dpkg --purge threadcast");
    assert_eq!(traces(), before);
    fs::remove_dir_all(folder).expect("ours");
    if let Err(failure) = served {
        std::panic::resume_unwind(failure);
    }
}

/// Starts the installed server with what its units give it: a listener, a socket to
/// notify, a network of its own, no rights, a folder.
fn serve_as_the_unit_does(folder: &Path) {
    look_at_units(Path::new(INSTALLED));
    for wanted in
        ["sockets.target.wants/threadcast.socket", "multi-user.target.wants/threadcast.service"]
    {
        assert!(Path::new("/etc/systemd/system").join(wanted).exists(), "{wanted} is not enabled");
    }
    let service = format!("{INSTALLED}/threadcast.service");
    let [program, descriptors] = ["ExecStart", "LimitNOFILE"].map(|name| setting(&service, name));
    let state = Path::new("/var/lib").join(setting(&service, "StateDirectory"));
    fs::create_dir(&state).expect("it was not there");
    for mine in [&state, folder] {
        chown(mine, Some(NOBODY), Some(NOBODY)).expect("we are root");
    }
    let notified = folder.join("notify");
    let notifications = UnixDatagram::bind(&notified).expect("a socket of our own");
    notifications.set_read_timeout(Some(TIMEOUT)).expect("a positive timeout");
    fs::set_permissions(&notified, fs::Permissions::from_mode(0o666)).expect("ours");
    let next = || {
        let mut word = [0; 256];
        let length = notifications.recv(&mut word).expect("a word in time");
        String::from_utf8_lossy(&word[..length]).trim().to_owned()
    };

    let (notified, trace, store) =
        (notified.display(), folder.join("trace"), state.join("history.redb"));
    let before = format!(
        "NOTIFY_SOCKET='{notified}' WATCHDOG_USEC=300000 THREADCAST_STORE='{}'; \
         export LISTEN_FDS LISTEN_PID NOTIFY_SOCKET WATCHDOG_USEC THREADCAST_STORE; \
         ulimit -n {descriptors}; cd /; exec unshare --net \
         setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --no-new-privs --bounding-set=-all \
         strace -D -f -o '{}'",
        store.display(),
        trace.display(),
    );
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let mut server = Process::unit(&program, &before, &listener, "");
    let words: Vec<String> = (0..3).map(|_| next()).collect();
    assert!(words.iter().any(|word| word == "READY=1"), "{words:?}");
    assert!(words.iter().any(|word| word == "WATCHDOG=1"), "{words:?}");

    let mut stream = server.stream("/channels/news");
    let published = server.request(
        "POST /channels/news HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
    );
    assert_eq!(published.status, 200);
    let mut said = String::new();
    while !said.contains("data: hello\n") {
        said += &stream.chunk().expect("the stream goes on");
    }
    assert_eq!(server.get("/").status, 200);

    server.signal("TERM");
    while next() != "STOPPING=1" {}
    assert_eq!(server.child.wait().expect("it is our child").code(), Some(0));
    assert!(store.exists(), "the events were kept in the state directory");
    look_at_system_calls(&fs::read_to_string(&trace).expect("strace wrote it"));
}

#[test]
#[ignore = "`make dist-check` makes the binary first, and it takes root to change the root"]
fn the_binary_needs_nothing_beside_it() {
    let dockerfile = fs::read_to_string("packaging/Dockerfile").expect("it is in the repository");
    let word = |instruction: &str| {
        let line = dockerfile.lines().find_map(|line| line.strip_prefix(instruction));
        line.unwrap_or_else(|| panic!("no {instruction}")).trim().to_owned()
    };
    assert_eq!((word("FROM"), word("COPY")), ("scratch".into(), "threadcast /threadcast".into()));
    assert_eq!(word("ENTRYPOINT"), r#"["/threadcast"]"#);

    let root = folder("scratch");
    fs::copy("target/dist/threadcast", root.join("threadcast")).expect("`make dist` was run");
    let inside = format!("exec chroot --userspec={} '{}'", word("USER"), root.display());
    let server = Process::copy("/threadcast", &inside);
    assert_eq!(server.get("/").status, 200);
    let mut stream = server.stream("/stream");
    stream.chunk().expect("the prelude");
    let date = stream.chunk().expect("the first event");
    assert!(date.contains("GMT+0000"), "without time zones it is UTC: {date}");

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
    let left: Vec<_> = fs::read_dir(&root).expect("ours").collect();
    assert_eq!(left.len(), 1, "{left:?}");
    fs::remove_dir_all(root).expect("ours");
}
