//! A page in Firefox or Chromium loses no event when its `EventSource` streams are cut.
//!
//! A test starts the browser headless with the address of a page, and the page reports to the test.
//! The test does not control the browser in any other way, so the same code tests both browsers.

mod retry;

use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use crate::common::{Received, Stream, TestServer, pace, say, skip, wait_until};
use crate::driver::turns::{self, Beside};
use crossbeam_channel::Receiver;
use fastrand::Rng;
use serde_json::Value;
use threadcast::{Config, Event, Histories, History};

/// How long a browser may take on a busy machine: to start, to reconnect, to report.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(120);

/// The tab ids of the page's streams.
///
/// A browser opens at most six connections to an origin; the page sends reports on the other two.
const TABS: [&str; 4] = ["a", "b", "c", "d"];

/// The number of cuts in one test, over all streams of the page.
const CUTS: usize = 100;

/// The longest time between two cuts, in milliseconds.
const CUT_WITHIN: u64 = 50;

/// The reconnection time in the published events. Firefox waits at least 500 ms even so.
const RETRY: Duration = Duration::from_millis(50);

pub(crate) struct Browser {
    pub(crate) name: &'static str,
    /// The possible names of the browser's program.
    programs: &'static [&'static str],
    /// The Debian package that contains the program.
    package: &'static str,
    /// The arguments before the page's address. `DIR` stands for the browser's profile folder.
    arguments: &'static [&'static str],
}

pub(crate) const FIREFOX: Browser = Browser {
    name: "Firefox",
    programs: &["firefox-esr", "firefox"],
    package: "firefox-esr",
    arguments: &["--headless", "--no-remote", "--profile", "DIR"],
};

pub(crate) const CHROMIUM: Browser = Browser {
    name: "Chromium",
    programs: &["chromium", "chromium-browser", "google-chrome"],
    package: "chromium",
    arguments: &[
        "--headless",
        "--user-data-dir=DIR",
        "--no-first-run",
        "--no-proxy-server",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--disable-quic",
        "--disable-sync",
        "--no-sandbox", // Chromium's sandbox does not start as root; the page is ours
    ],
};

/// Preferences of the Firefox profile.
///
/// They turn off requests that are not the page's, and checks of the machine's network.
const PREFERENCES: &str = r#"
user_pref("app.normandy.enabled", false);
user_pref("app.update.enabled", false);
user_pref("browser.safebrowsing.malware.enabled", false);
user_pref("browser.safebrowsing.phishing.enabled", false);
user_pref("browser.safebrowsing.update.enabled", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("datareporting.healthreport.uploadEnabled", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("extensions.update.enabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("network.dns.disablePrefetch", true);
user_pref("network.http.speculative-parallel-limit", 0);
user_pref("network.manage-offline-status", false);
user_pref("network.proxy.type", 0);
user_pref("services.settings.server", "data:,");
user_pref("toolkit.telemetry.enabled", false);
user_pref("toolkit.telemetry.unified", false);
"#;

/// A browser with a profile of its own. Dropping this kills the browser and deletes the profile.
pub(crate) struct Running {
    process: Child,
    profile: PathBuf,
    _turn: Option<Arc<Beside>>,
}

impl Browser {
    /// Opens a page. If the browser is not installed, prints a message and returns `None`.
    pub(crate) fn open(&self, url: &str) -> Option<Running> {
        static STARTS: AtomicUsize = AtomicUsize::new(0);
        let Some(program) = self.program() else {
            let (name, package) = (self.name, self.package);
            skip(&format!("no {name}; install it with `apt-get install {package}`"));
            return None;
        };
        let turn = turns::beside();
        let profile = format!("{}-{}-{}", self.name, process::id(), STARTS.fetch_add(1, Relaxed));
        let profile = Path::new(env!("CARGO_TARGET_TMPDIR")).join(profile);
        fs::create_dir_all(&profile).expect("a folder for the profile");
        fs::write(profile.join("user.js"), PREFERENCES).expect("a file in it");
        let dir = profile.to_str().expect("UTF-8");
        let process = Command::new(program)
            .args(self.arguments.iter().map(|argument| argument.replace("DIR", dir)))
            .arg(url)
            .env("HOME", &profile)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the browser starts");
        Some(Running { process, profile, _turn: turn })
    }

    fn program(&self) -> Option<PathBuf> {
        let folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH")?).collect();
        let programs = self.programs.iter();
        let mut paths = programs.flat_map(|name| folders.iter().map(move |dir| dir.join(name)));
        paths.find(|path| path.is_file())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        // The browser's child processes end a moment later, and write to the profile until then.
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.profile.exists() && Instant::now() < deadline {
            if fs::remove_dir_all(&self.profile).is_err() {
                pace(Duration::from_millis(20));
            }
        }
    }
}

/// A page whose streams are all open, and the server that can cut them.
struct Session {
    reports: Receiver<Value>,
    name: &'static str,
    // Dropped before the server, which would otherwise wait for the browser's streams.
    _running: Running,
    server: TestServer,
}

impl Session {
    fn start(browser: &Browser) -> Option<Self> {
        let kept = History { events: 1_000_000, ..History::default() };
        let history = Histories::default().with("*", kept);
        let public = Some("tests/browser/cuts/page".into());
        let server = TestServer::with_lab(Config { public, history, ..Config::default() }, None);
        let reports = reports(&server);
        let query = TABS.map(|tab| format!("tab={tab}")).join("&");
        let running = browser.open(&format!("http://{}/?{query}", server.addr))?;
        let session = Self { reports, name: browser.name, server, _running: running };
        for _ in TABS {
            assert_eq!(session.report()["open"], true, "a stream opens once");
        }
        Some(session)
    }

    /// Waits for the page's next report.
    fn report(&self) -> Value {
        let report = self.reports.recv_timeout(TIMEOUT);
        let report = report.unwrap_or_else(|_| panic!("{} reports within {TIMEOUT:?}", self.name));
        assert_eq!(report["closed"], Value::Null, "{} stopped reconnecting: {report}", self.name);
        report
    }

    /// Cuts the stream with this tab id; returns whether the stream was open.
    fn cut(&self, tab: &str) -> bool {
        self.server.post(&format!("/lab/drop?tab={tab}"), "", "").json()["dropped"] == 1
    }

    fn publish(&self, data: &str) {
        let event = Event::new(data).with_retry(RETRY);
        self.server.registry.publish("news", &event).expect("a name");
    }

    fn wait_for_streams(&self, count: usize) {
        wait_until(TIMEOUT, "the page's streams are cut or open", || {
            self.server.registry.subscribers("news") == count
        });
    }

    /// Asserts that every stream of the page received the first `count` numbers, each once and in
    /// order.
    fn assert_each_got(&self, count: usize) {
        // An open stream receives `end` in any case, even if it has lost events.
        self.wait_for_streams(TABS.len());
        self.publish("end");
        for _ in TABS {
            let report = self.report();
            let got = report["got"].as_array().expect("a list of messages");
            let got: Vec<usize> = got
                .iter()
                .map(|data| data.as_str().expect("text").parse().expect("a number"))
                .collect();
            let lost = (0..count).filter(|number| !got.contains(number)).count();
            let mut distinct = got.clone();
            distinct.sort_unstable();
            distinct.dedup();
            let doubled = got.len() - distinct.len();
            let (name, tab) = (self.name, &report["tab"]);
            say(&format!(
                "{name}, stream {tab}: {count} events, {lost} lost, {doubled} duplicates"
            ));
            assert!(got.iter().copied().eq(0..count), "{name}, {tab}: {got:?}");
        }
    }
}

/// Returns a receiver of the reports that pages publish to the channel `report`.
pub(crate) fn reports(server: &TestServer) -> Receiver<Value> {
    let mut stream = Stream::of(server, "/channels/report", "");
    let (sender, reports) = crossbeam_channel::unbounded();
    thread::spawn(move || {
        while let Some(block) = stream.next() {
            let event = Received::parse(&block);
            let Some(data) = event.data.filter(|_| event.id.is_some()) else { continue };
            let _ = sender.send(serde_json::from_str(&data).expect("a report is JSON"));
        }
    });
    reports
}

/// Cuts every stream twice before its first event, so that a reconnected stream is cut, too.
fn check_cuts_before_the_first_event(browser: &Browser) {
    let Some(session) = Session::start(browser) else { return };
    // A slow machine may cut the last stream only after the first has reconnected, so each stream is
    // awaited by itself.
    for tab in [TABS, TABS].concat() {
        wait_until(TIMEOUT, "the stream is open", || session.cut(tab));
        wait_until(TIMEOUT, "the stream has ended", || !session.cut(tab));
    }
    (0..3).for_each(|number| session.publish(&number.to_string()));
    session.assert_each_got(3);
}

fn check_random_cuts(browser: &Browser) {
    let Some(session) = Session::start(browser) else { return };
    let seed = fastrand::u64(..);
    let mut rng = Rng::with_seed(seed);
    let (mut cuts, mut published) = (0, 0);
    let deadline = Instant::now() + TIMEOUT * 2;
    let mut next_cut = Instant::now();
    while cuts < CUTS {
        assert!(Instant::now() < deadline, "only {cuts} cuts; seed {seed}");
        session.publish(&published.to_string());
        published += 1;
        if Instant::now() >= next_cut {
            cuts += usize::from(session.cut(TABS[rng.usize(..TABS.len())]));
            next_cut = Instant::now() + Duration::from_millis(rng.u64(..CUT_WITHIN));
        }
        pace(Duration::from_millis(rng.u64(..5)));
    }
    say(&format!("{}: {cuts} cuts, seed {seed}", browser.name));
    session.assert_each_got(published);
}

#[test]
fn chromium_resumes_before_its_first_event() {
    check_cuts_before_the_first_event(&CHROMIUM);
}

#[test]
fn firefox_resumes_before_its_first_event() {
    check_cuts_before_the_first_event(&FIREFOX);
}

#[test]
fn chromium_loses_nothing_in_a_hundred_cuts() {
    check_random_cuts(&CHROMIUM);
}

#[test]
fn firefox_loses_nothing_in_a_hundred_cuts() {
    check_random_cuts(&FIREFOX);
}
