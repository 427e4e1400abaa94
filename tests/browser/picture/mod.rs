//! The picture of the live view in Chromium and in Firefox: while a handler reads the disk, one cell
//! of a thread is red, and all clients of the event loop are silent.
//!
//! The browser is not controlled by the test: a script that is added to the page acts and reports.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use crate::common::{TestServer, say};
use crate::cuts::{Browser, CHROMIUM, FIREFOX, TIMEOUT, reports};
use crate::driver::turns::alone;
use serde_json::Value;
use threadcast::Config;

const PROBE: &str = include_str!("probe.js");

/// A copy of the folder `public/` whose live view has the script. It is deleted at the end.
struct Public(PathBuf);

impl Public {
    fn new(name: &str) -> Self {
        let copy = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let copy = copy.join(format!("public-{name}-{}", process::id()));
        fs::create_dir_all(&copy).expect("a folder for the pages");
        for entry in fs::read_dir("public").expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            fs::copy(&path, copy.join(path.file_name().expect("a name"))).expect("a copy");
        }
        let page = fs::read_to_string("public/lab.html").expect("UTF-8");
        let probe = "<script type=\"module\" src=\"probe.js\"></script>\n</head>";
        fs::write(copy.join("lab.html"), page.replace("</head>", probe)).expect("a file");
        fs::write(copy.join("probe.js"), PROBE).expect("a file");
        Self(copy)
    }
}

impl Drop for Public {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Other programs on the machine can keep any thread from running for a while. So the relation of the
/// two sides is asserted, of the median of the frames, and of the best of several attempts.
fn check(browser: &Browser) {
    let _turn = alone();
    let public = Public::new(browser.name);
    let config = Config { public: Some(public.0.clone()), ..Config::default() };
    let program = Some(PathBuf::from(env!("CARGO_BIN_EXE_threadcast")));
    let server = TestServer::with_lab(config, program);
    if !crate::holds_1_000_clients(&server.get("/status")) {
        return;
    }
    let reports = reports(&server);
    let Some(_running) = browser.open(&format!("http://{}/lab.html", server.addr)) else { return };
    let mut best = f64::MAX;
    while best > 0.6 {
        let report = reports.recv_timeout(TIMEOUT);
        let report = report.unwrap_or_else(|_| panic!("{}: the best was {best}", browser.name));
        assert_eq!(report["failed"], Value::Null, "{}", browser.name);
        say(&format!("{}: {report}", browser.name));
        let number = |name: &str| report[name].as_f64().expect("a number");
        // The clients were silent for the whole request, and the page showed it for all of them.
        let is_shown = number("loop") >= 150.0 && number("waiting") >= number("clients");
        if is_shown && (1.0..=2.0).contains(&number("disk")) {
            best = best.min(number("threads") / number("loop"));
        }
    }
}

#[test]
fn chromium_shows_one_red_cell_and_a_silent_event_loop() {
    check(&CHROMIUM);
}

#[test]
fn firefox_shows_one_red_cell_and_a_silent_event_loop() {
    check(&FIREFOX);
}
