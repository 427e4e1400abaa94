//! Complete runs of `threadcast lab` with a few clients.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::TestServer;
use crate::engines::is_installed;
use sse_load::{process, procfs};
use threadcast::Config;
use threadcast::lab::engine::Engine;
use threadcast::lab::experiment::Experiment;
use threadcast::lab::results::Results;
use threadcast::lab::{Options, Pace, Progress, report, run};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_threadcast");

/// The shortest pace: the tests check that a run measures, not what it measures.
const TINY: Pace = Pace {
    measured: Duration::from_millis(60),
    warm_up: Duration::from_millis(20),
    settle: Duration::ZERO,
    ..Pace::QUICK
};

fn options(engines: &[Engine], experiments: &[Experiment]) -> Options {
    Options {
        engines: engines.to_vec(),
        experiments: experiments.to_vec(),
        clients: 8,
        ..Options::new(PROGRAM.into(), TINY)
    }
}

fn measure(options: &Options) -> Results {
    run(options, &AtomicBool::new(false), &mut |_| ()).expect("a finished run")
}

/// Measures all engines in parallel to save time: a run mostly waits, and the tests do not check
/// speed.
fn measure_in_parallel(engines: &[Engine], experiments: &[Experiment]) -> Results {
    let measured: Vec<Results> = thread::scope(|scope| {
        let runs = engines.chunks(1).map(|one| scope.spawn(|| measure(&options(one, experiments))));
        let runs: Vec<_> = runs.collect();
        runs.into_iter().map(|run| run.join().expect("a finished run")).collect()
    });
    let all = measured.into_iter().reduce(|mut all, next| {
        all.engines.extend(next.engines);
        all.samples.extend(next.samples);
        all.failures.extend(next.failures);
        all
    });
    all.expect("at least one engine")
}

#[test]
fn every_experiment_measures_every_installed_engine() {
    let engines: Vec<Engine> =
        Engine::ALL.into_iter().filter(|engine| is_installed(*engine)).collect();
    let results = measure_in_parallel(&engines, &Experiment::ALL);
    assert_eq!(results.failures, []);
    assert_eq!(results.engines, engines);
    for engine in &results.engines {
        for experiment in Experiment::ALL {
            let name = format!("{} of {}", experiment.name(), engine.name());
            assert!(results.of(experiment, *engine).next().is_some(), "{name}");
            let is_found = |results: &Results| {
                results.shown(experiment, *engine, experiment.headline()).is_some()
            };
            // On a busy machine, 60 ms may pass without an event; the test then measures again.
            // For Apache a missing value is accepted: with its many processes it would be frequent.
            let again = |_| is_found(&measure(&options(&[*engine], &[experiment])));
            assert!(is_found(&results) || engine.is_apache() || (0..5).any(again), "{name}");
        }
    }
    let threads = |engine| {
        results.shown(Experiment::Idle, engine, "threads").expect("a measured value").median
    };
    assert!(threads(Engine::EventLoop) < 2.0, "one thread for all clients");
    assert!(threads(Engine::Wake) >= 8.0, "one thread for each client");
    assert!(threads(Engine::TinyHttp) >= 16.0, "two threads for each client");
    if results.engines.contains(&Engine::ApachePrefork) {
        assert!(threads(Engine::ApachePrefork) >= 24.0, "processes, each with further threads");
    }
    let folder = tempdir("report");
    let page = report::write(&results, &folder).expect("a written report");
    let page = fs::read_to_string(page).expect("a readable report");
    let text = report::text(&results);
    for engine in &results.engines {
        assert!(text.contains(engine.name()) && page.contains(engine.name()), "{text}");
    }
    assert!(!page.contains("NaN"), "the report shows only measured values");
    assert_eq!(page.matches("<svg").count(), 2 * 8, "eight plots, in two languages");
    let json = fs::read_to_string(folder.join("samples.json")).expect("a readable file");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let samples = json["samples"].as_array().expect("a list").len();
    assert_eq!(samples, results.samples.len());
    assert!(folder.join("event-cpu.svg").is_file());
    fs::remove_dir_all(folder).expect("a removable folder");
}

#[test]
fn measured_capacity_matches_doctor() {
    let results = measure(&options(&[Engine::Direct, Engine::EventLoop], &[Experiment::Capacity]));
    assert_eq!(results.failures, []);
    for engine in [Engine::Direct, Engine::EventLoop] {
        let figure = |name| {
            let found = results.shown(Experiment::Capacity, engine, name);
            found.expect("a measured value").median
        };
        let (predicted, held) = (figure("predicted"), figure("held"));
        assert!((predicted - held).abs() <= 5.0, "{predicted} predicted, {held} held");
        assert!(
            figure("come_back") >= 1.0,
            "{} serves a client after others disconnect",
            engine.name()
        );
    }
    let rejected = results.shown(Experiment::Capacity, Engine::Direct, "told");
    assert!(
        rejected.is_some_and(|it| it.median >= 1.0),
        "clients over the capacity get a response"
    );
}

#[test]
fn slow_handler_exists_only_with_the_lab() {
    let ask = |server: TestServer| server.get("/lab/slow/cpu");
    assert_eq!(ask(TestServer::start()).status, 404);
    let answer = ask(TestServer::with_lab(Config::default(), None));
    assert!(answer.status == 200 && answer.json()["ms"].as_f64() >= Some(200.0), "{answer:?}");
}

#[test]
fn slow_handler_stalls_the_event_loop_but_no_thread() {
    let silence = |engine| {
        let results = measure(&options(&[engine], &[Experiment::Slow]));
        let found = results.shown(Experiment::Slow, engine, "disk_silence_ms");
        found.expect("a measured value").median
    };
    // On a busy machine, a late read can shorten the measured silence, and a pause of all processes
    // can prolong it. So each engine has five tries to show the expected silence.
    let stalls = |_| silence(Engine::EventLoop) >= 190.0;
    assert!((0..5).any(stalls), "the event loop stalls for 200 ms");
    let keeps_sending = |_| silence(Engine::Wake) < 190.0;
    assert!((0..5).any(keeps_sending), "other clients are served meanwhile");
}

#[test]
fn failed_engine_is_reported_and_the_run_continues() {
    let folder = tempdir("dies");
    // This program prints an address, as an engine does, and exits.
    let program = folder.join("dying");
    let script = format!(
        "#!/bin/sh\ntest $3 = direct && {{ echo 127.0.0.1:9; exit 3; }}\nexec {PROGRAM} \"$@\"\n"
    );
    fs::write(&program, script).expect("writable");
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("writable");
    let options =
        Options { program, ..options(&[Engine::Direct, Engine::Wake], &[Experiment::Event]) };
    let results = measure(&options);
    assert_eq!(results.failures.len(), 1);
    assert!(
        results.failures[0].engine == Engine::Direct
            && results.failures[0].why.contains("exit status: 3")
    );
    assert!(results.shown(Experiment::Event, Engine::Wake, "cpu_us").is_some());
    assert!(report::text(&results).contains("direct failed in event, run 1: the engine ended"));
    fs::remove_dir_all(folder).expect("a removable folder");
}

#[test]
fn interrupted_run_keeps_finished_results() {
    let stop = AtomicBool::new(false);
    let options = options(&[Engine::EventLoop, Engine::Wake], &[Experiment::Event]);
    let mut after_the_first = |progress: &Progress| {
        stop.store(progress.what.contains("wake"), Ordering::Relaxed);
    };
    let results = run(&options, &stop, &mut after_the_first).expect("a report");
    assert!(results.interrupted && results.failures.is_empty());
    assert!(results.samples.iter().all(|sample| sample.engine == Engine::EventLoop));
    assert!(!results.samples.is_empty() && report::text(&results).contains("ended before"));
}

#[test]
fn client_count_is_capped_at_the_capacity() {
    let options = options(&[Engine::EventLoop], &[Experiment::Event]);
    let (most, bound) = options.capacity(&options.engines);
    // Other tests run at the same time, so the capacity may change a little until the run begins.
    let too_many = Options { clients: 2 * most, ..options };
    let stop = AtomicBool::new(true); // stop at once: the limit applies before any client connects
    let results = run(&too_many, &stop, &mut |_| ()).expect("a report");
    let note = format!("{bound} limits these engines to {} each", results.clients);
    assert!(results.clamped.expect("a note").ends_with(&note), "{note}");
    assert!(results.clients <= most + most / 4, "{} clients, capacity {most}", results.clients);
}

/// Runs the binary, because the descriptor limit must not apply to the test program.
#[test]
fn client_count_is_capped_by_descriptors() {
    let limited = format!(
        "ulimit -n 120; exec {PROGRAM} lab --quick --clients 5000 --engines direct --experiments event"
    );
    let output = Command::new("sh").args(["-c", &limited]).output().expect("sh is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    let note = text.lines().find(|line| line.contains("5000 clients were requested"));
    let note = note.unwrap_or_else(|| panic!("the output has no note: {text}"));
    assert!(note.contains("RLIMIT_NOFILE limits these engines to"), "{note}");
    assert!(output.status.success() && !text.contains("failed"), "{text}");
    assert!(text.contains("µs CPU/event"), "the lab measures up to the limit: {text}");
}

#[test]
fn ctrl_c_leaves_a_partial_report() {
    let folder = tempdir("ctrl-c");
    let mut command = Command::new(PROGRAM);
    command.args(["lab", "--engines", "event-loop,wake", "--clients", "8", "--out"]).arg(&folder);
    let mut lab = command.stdout(Stdio::piped()).spawn().expect("the binary starts");
    process::wait_until(|| procfs::tree(lab.id()).is_ok_and(|it| it.len() > 1));
    let kill = Command::new("kill").args(["-INT", &lab.id().to_string()]).status();
    assert!(kill.expect("kill is installed").success());
    let mut text = String::new();
    lab.stdout.as_mut().expect("a pipe").read_to_string(&mut text).expect("UTF-8");
    assert_eq!(lab.wait().expect("the lab exits").code(), Some(0));
    assert!(text.contains("ended before it was done"), "{text}");
    let page = fs::read_to_string(folder.join("report.html")).expect("a readable report");
    assert!(page.contains("ended before it was done"));
    fs::remove_dir_all(folder).expect("a removable folder");
}

fn lab(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).arg("lab").args(arguments).output().expect("the binary starts")
}

#[test]
fn bad_arguments_fail_before_any_measurement() {
    let check = |arguments: &[&str], status: i32, what: &str| {
        let output = lab(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(status) && error.contains(what), "{error}");
    };
    check(&["--clients", "0"], 2, "--clients");
    check(&["--engines", "warp"], 2, "event-loop");
    check(&["--out", "/dev/null/report"], 2, "--out");
    let folder = tempdir("in-the-way");
    fs::create_dir(folder.join("samples.json")).expect("a new folder");
    check(&["--out", folder.to_str().expect("UTF-8")], 2, "--out");
    fs::remove_dir_all(folder).expect("a removable folder");
}

fn tempdir(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("threadcast-lab-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a temporary folder");
    folder
}
