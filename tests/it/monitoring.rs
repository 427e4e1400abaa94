//! What an operator monitors the server with: metrics, Grafana's dashboard, Prometheus's alerts, and
//! the trace context in the log.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;

use crate::common::receiver::Receiver;
use crate::common::{Process, Stream, TIMEOUT, TestServer, skip, wait_until};
use threadcast::{Config, Delivery, Event};

const ALERTS: &str = "packaging/alerts.yml";

/// The metrics that only a server with Redis has. A test of several nodes checks that they exist.
const OF_REDIS: [&str; 1] = ["threadcast_redis_reachable"];

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn dashboard() -> Value {
    serde_json::from_str(&read("packaging/grafana.json")).expect("JSON")
}

/// All panels, without the rows.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let panels = dashboard["panels"].as_array().expect("a list");
    panels.iter().filter(|panel| panel["type"] != "row").collect()
}

/// The expressions of all panels.
fn expressions(dashboard: &Value) -> Vec<&str> {
    let panels = panels(dashboard).into_iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().expect("a list"));
    targets.map(|target| target["expr"].as_str().expect("a query")).collect()
}

/// The names of metrics in a text, without what a histogram appends to its name.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("threadcast_"));
    names
        .map(|name| {
            let parts = ["_bucket", "_sum", "_count"];
            parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name).to_owned()
        })
        .collect()
}

/// The metrics of a server with a store and webhooks.
static METRICS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let store = Path::new(env!("CARGO_TARGET_TMPDIR")).join("monitored.redb");
    let _ = fs::remove_file(&store); // from an earlier run
    let options = format!("--store {} {}", store.display(), Receiver::start().options());
    let metrics = Process::with(&options).get("/metrics").body;
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
});

#[test]
fn dashboard_and_alerts_use_only_metrics_that_exist() {
    let (dashboard, alerts) = (dashboard(), read(ALERTS));
    let used = metrics_in(&(expressions(&dashboard).join(" ") + &alerts));
    assert!(used.len() > 20, "{used:?}");
    let exists = |name: &&String| METRICS.contains(*name) || OF_REDIS.contains(&name.as_str());
    let unknown: Vec<_> = used.iter().filter(|name| !exists(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn dashboard_shows_every_metric() {
    let shown = metrics_in(&expressions(&dashboard()).join(" "));
    let hidden: Vec<_> = METRICS.iter().filter(|name| !shown.contains(*name)).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

#[test]
fn every_metric_is_documented() {
    let pages = read("docs/http.md") + &read("docs/webhooks.md");
    let documented = |name: &String| {
        let short = name.trim_start_matches("threadcast_");
        [name.as_str(), short].iter().any(|name| {
            pages.contains(&format!("`{name}`")) || pages.contains(&format!("`{name}{{"))
        })
    };
    let lacking: Vec<_> = METRICS.iter().filter(|name| !documented(name)).collect();
    assert!(lacking.is_empty() && METRICS.len() > 20, "{lacking:?}");
}

#[test]
fn dashboard_panels_have_queries_and_do_not_overlap() {
    let dashboard = dashboard();
    let mut cells = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("a list") {
        let title = panel["title"].as_str().expect("a title");
        assert!(ids.insert(panel["id"].as_u64().expect("a number")), "{title}");
        let place = |field: &str| panel["gridPos"][field].as_u64().expect("a number");
        assert!(place("x") + place("w") <= 24, "{title}");
        for y in place("y")..place("y") + place("h") {
            for x in place("x")..place("x") + place("w") {
                assert!(cells.insert((x, y)), "{title} overlaps another panel");
            }
        }
    }
    for panel in panels(&dashboard) {
        for target in panel["targets"].as_array().expect("a list") {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{panel}");
            let query = target["expr"].as_str().expect("a query");
            assert!(query.contains("job=~\"$job\",instance=~\"$instance\""), "{query}");
        }
    }
}

/// Checks the dashboard with the types that Grafana generates from its schema.
#[test]
fn dashboard_matches_the_schema_of_grafana() {
    let folder = Path::new("target/grafana");
    if !folder.join("node_modules/.bin/tsc").exists() {
        let made = Command::new("make").arg("grafana").output();
        if !made.is_ok_and(|made| made.status.success()) {
            return skip("no @grafana/schema; `make grafana` fetches it with npm");
        }
    }
    let dashboard = dashboard();
    // An enum of TypeScript accepts only its own members. `Plain` accepts their texts.
    let mut code = format!(
        "import type {{ Dashboard }} from '@grafana/schema';\n\
         import type {{ Options as timeseries, FieldConfig }} from '@grafana/schema/dist/esm/raw/\
         composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';\n\
         import type {{ Options as stat }} from '@grafana/schema/dist/esm/raw/composable/stat/\
         panelcfg/x/StatPanelCfg_types.gen';\n\
         type Plain<T> = unknown extends T ? T : T extends string ? `${{T}}`\n  \
         : T extends (infer U)[] ? Plain<U>[]\n  \
         : T extends object ? {{ [K in keyof T]: Plain<T[K]> }} : T;\n\
         export const dashboard: Plain<Dashboard> = {dashboard:#};\n"
    );
    for panel in panels(&dashboard) {
        let (kind, id) = (panel["type"].as_str().expect("a type"), &panel["id"]);
        let _ = writeln!(code, "export const o{id}: Plain<{kind}> = {};", panel["options"]);
        if kind == "timeseries" {
            let custom = &panel["fieldConfig"]["defaults"]["custom"];
            let _ = writeln!(code, "export const f{id}: Plain<FieldConfig> = {custom};");
        }
    }
    fs::write(folder.join("dashboard.ts"), code).expect("the target directory is ours");
    let checked = Command::new("node_modules/.bin/tsc")
        .args(["--noEmit", "--strict", "--skipLibCheck", "--moduleResolution", "bundler"])
        .args(["--module", "esnext", "--target", "es2022", "dashboard.ts"])
        .current_dir(folder)
        .output()
        .expect("tsc runs");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}

/// Runs promtool. If it is not installed, prints that and returns `false`.
fn promtool(arguments: &[&str]) -> bool {
    let Ok(output) = Command::new("promtool").args(arguments).output() else {
        skip("promtool is not installed; `make promtool` installs it");
        return false;
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "promtool {arguments:?}\n{out}{error}");
    true
}

#[test]
fn alerts_fire_as_documented() {
    if !promtool(&["check", "rules", ALERTS]) {
        return;
    }
    let alerts = fs::canonicalize(ALERTS).expect("it exists");
    let tests = read("tests/it/alerts_test.yml").replace("ALERTS", &alerts.display().to_string());
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("alerts_test.yml");
    fs::write(&file, tests).expect("the target directory is ours");
    promtool(&["test", "rules", &file.display().to_string()]);
}

#[test]
fn dashboard_queries_are_valid_for_prometheus() {
    let dashboard = dashboard();
    let mut rules = String::from("groups:\n  - name: dashboard\n    rules:\n");
    for (number, query) in expressions(&dashboard).into_iter().enumerate() {
        let query = query.replace("$__rate_interval", "5m").replace("$job", ".*");
        let query = Value::from(query.replace("$instance", ".*"));
        let _ = writeln!(rules, "      - record: \"query:{number}\"\n        expr: {query}");
    }
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("dashboard.yml");
    fs::write(&file, rules).expect("the target directory is ours");
    promtool(&["check", "rules", "--lint=none", &file.display().to_string()]);
}

#[test]
fn every_alert_is_explained() {
    let (alerts, page) = (read(ALERTS), read("docs/monitoring.md"));
    let names: Vec<_> = alerts.lines().filter_map(|line| line.split_once("- alert: ")).collect();
    assert!(names.len() >= 10);
    for (_, name) in names {
        assert!(page.contains(&format!("\n### {name}\n")), "docs/monitoring.md lacks {name}");
    }
    let explained = page.matches("\n### Threadcast").count();
    assert_eq!(explained, alerts.matches("- alert: ").count(), "an alert is gone");
}

/// Returns the value of a sample in `/metrics`.
fn sample(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("threadcast_{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().expect("a number")
}

#[test]
fn first_byte_of_each_stream_is_measured() {
    for delivery in [Delivery::Direct, Delivery::Wake] {
        let server = TestServer::with(Config { delivery, ..Config::default() });
        for count in 1..=3 {
            let _stream = Stream::of(&server, "/channels/a", "");
            wait_until(TIMEOUT, "the first byte is counted", || {
                sample(&server.get("/metrics").body, "first_byte_seconds_count") >= f64::from(count)
            });
        }
        let metrics = server.get("/metrics").body;
        assert!((sample(&metrics, "first_byte_seconds_count") - 3.0).abs() < 0.5, "{metrics}");
        let sum = sample(&metrics, "first_byte_seconds_sum");
        assert!(sum > 0.0 && sum < TIMEOUT.as_secs_f64(), "{sum}");
    }
}

#[test]
fn publish_time_is_measured_by_store() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("by-store.redb");
    let _ = fs::remove_file(&path); // from an earlier run
    let stored = Config { store: Some(path.into()), ..Config::default() };
    for (config, store) in [(Config::default(), "memory"), (stored, "file")] {
        let server = TestServer::with(config);
        let name = format!("publish_seconds_count{{store=\"{store}\"}}");
        let before = sample(&server.get("/metrics").body, &name);
        for _ in 0..5 {
            server.registry.publish("a", &Event::new("x")).expect("there is room");
        }
        let after = sample(&server.get("/metrics").body, &name);
        assert!(after >= before + 5.0, "{store}: {before} {after}");
        let file = server.get("/metrics").body.contains("publish_seconds_count{store=\"file\"}");
        assert_eq!(file, store == "file");
    }
}

#[test]
fn json_log_has_the_trace_of_a_sampled_publish() {
    let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join("trace.log");
    let before = format!("exec 2>{}; exec", log.display());
    let server = Process::shell(&before, "--log-format json --mercure --publish-token x");
    let publish = |target: &str, kind: &str, trace: &str, body: &str| {
        let answer = server.request(&format!(
            "POST {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\nContent-Type: {kind}\r\n{trace}\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        ));
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    let trace = |digit: char, flags: &str| {
        let (trace, parent) = (digit.to_string().repeat(32), "b7ad6b7169203331");
        format!("traceparent: 00-{trace}-{parent}-{flags}\r\n")
    };
    let many = "{\"data\":1}\n{\"data\":2}\n";
    publish("/channels/a", "application/x-ndjson", &trace('1', "01"), many);
    publish("/channels/a", "text/plain", &trace('2', "00"), "not sampled");
    publish("/channels/a", "text/plain", "traceparent: forged\r\n", "invalid");
    publish("/channels/a", "text/plain", &trace('3', "01").repeat(2), "there twice");
    publish("/channels/a", "text/plain", "", "no trace");
    publish("/channels/b", "text/plain", &trace('4', "03"), "x");
    let lines = || -> Vec<Value> {
        let log = fs::read_to_string(&log).expect("the server writes it");
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["target"] == "threadcast::http::trace").collect()
    };
    wait_until(TIMEOUT, "the last line is written", || lines().len() >= 2);
    let lines = lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let expected = format!("00-{}-b7ad6b7169203331-01", "1".repeat(32));
    assert_eq!(lines[0]["traceparent"], expected.as_str());
    assert_eq!((&lines[0]["channel"], &lines[0]["events"]), (&"a".into(), &2.into()));
    assert_eq!((&lines[0]["level"], &lines[1]["channel"]), (&"info".into(), &"b".into()));
}
