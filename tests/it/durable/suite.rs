//! The protocol's conformance tests, unchanged: in both delivery modes, and with a store.

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use crate::common::{TestServer, say, skip};
use crate::store::serving::Folder;
use threadcast::{Config, Delivery, DurableStreams, StoreAt};

/// The folder into which `make durable-clients` installs the packages.
pub(super) const PACKAGES: &str = "target/durable-streams";

/// Returns whether the packages from npm are installed. Installs them if necessary, and prints a
/// notice if that fails.
pub(super) fn has_packages() -> bool {
    static ARE_HERE: LazyLock<bool> = LazyLock::new(|| {
        let made = Command::new("make").arg(format!("{PACKAGES}/complete")).output();
        made.is_ok_and(|made| made.status.success())
            && Path::new(PACKAGES).join("node_modules/vitest").exists()
    });
    if !*ARE_HERE {
        skip("Node.js 20 with npm is missing; run `make engines`, then `make conformance`");
    }
    *ARE_HERE
}

#[test]
fn conformance_tests_of_the_protocol_pass() {
    if !has_packages() {
        return;
    }
    let folders = [Folder::new(), Folder::new()];
    let [one, other] = folders.each_ref().map(|folder| Some(StoreAt::from(folder.store())));
    // At the same time, because some of the tests only wait.
    thread::scope(|scope| {
        for (name, delivery, store) in [
            ("direct", Delivery::Direct, None),
            ("wake", Delivery::Wake, None),
            ("store-direct", Delivery::Direct, one),
            ("store-wake", Delivery::Wake, other),
        ] {
            scope.spawn(move || run_suite(name, delivery, store));
        }
    });
}

/// Runs the suite against a server with this delivery mode and store.
fn run_suite(name: &str, delivery: Delivery, store: Option<StoreAt>) {
    // Two of the tests wait for a long-poll's timeout, at most 5 s.
    let durable = DurableStreams { long_poll: Duration::from_secs(1), ..DurableStreams::default() };
    let config = Config { durable_streams: Some(durable), delivery, store, ..Config::default() };
    let server = TestServer::with(config);
    let report = format!("{name}.json");
    let output = Command::new("npx")
        .args(["vitest", "run", "conformance.test.mjs", "--no-coverage", "--reporter=json"])
        // Some tests of lifetimes need a second to last a second. While all tests run, it may not.
        .args(["--retry=3", "--testTimeout=60000", "--outputFile", &report])
        .current_dir(PACKAGES)
        .env("SERVER", format!("http://{}", server.addr))
        .output()
        .expect("npx runs");
    let report = std::fs::read(Path::new(PACKAGES).join(report));
    let report = report.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let report: serde_json::Value = serde_json::from_slice(&report).expect("JSON");
    let failed: Vec<String> = report["testResults"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|file| file["assertionResults"].as_array().into_iter().flatten())
        .filter(|test| test["status"] == "failed")
        .map(|test| format!("{}\n{}", test["fullName"], test["failureMessages"]))
        .collect();
    let passed = report["numPassedTests"].as_u64();
    say(&format!("conformance with {name}: {passed:?} passed, {} failed", failed.len()));
    assert!(failed.is_empty(), "{name}: {}", failed.join("\n"));
    assert_eq!(passed, Some(332), "{name}");
}
