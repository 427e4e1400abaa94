//! Reports the status of the server as JSON, for people and pages.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use super::access::{Api, ReadAccess};
use super::answer::Answer;
use super::error::HttpError;
use super::exchange::Exchange;
use super::reply::Reply;
use super::server_state::{KeptStatus, ServerState};
use crate::capacity::{Bound, Cost};
use crate::counters::dropped_log_lines;
use crate::event::Event;
use crate::process::{self, Process, ThreadGroup, thread_time};

/// Returns the document of `GET /status`.
///
/// The document contains the CPU time that was spent on all such documents so far, so that a
/// measurement of the server can subtract this time.
fn json(server: &ServerState, kept: &mut KeptStatus) -> Value {
    let began = thread_time();
    let status = collect(server, kept);
    let nanos = thread_time().saturating_sub(began).as_nanos();
    server.status_nanos.fetch_add(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::Relaxed);
    status
}

fn collect(server: &ServerState, kept: &mut KeptStatus) -> Value {
    let status_cpu = Duration::from_nanos(server.status_nanos.load(Ordering::Relaxed));
    let (process, groups) = Process::with_threads(&mut kept.threads);
    let clients = server.admission.clients();
    let capacity = kept.capacity(server, clients);
    let machine = process::machine().unwrap_or_default();
    let counters = &server.counters;
    let switches = process.switches.map(
        |(voluntary, involuntary)| json!({ "voluntary": voluntary, "involuntary": involuntary }),
    );
    let mut status = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": server.started.elapsed().as_secs(),
        "uptime_ms": millis(server.started.elapsed()),
        "draining": server.is_draining(),
        "delivery": format!("{:?}", server.delivery()).to_lowercase(),
        "clients": clients,
        "max_clients": server.admission.max_clients,
        "connections": server.connections.open(),
        "max_connections": server.connections.max(),
        "connections_shed": counters.shed.get(),
        "threads": process.threads,
        "memory_bytes": process.resident,
        "kernel_memory_bytes": machine.kernel,
        "kernel_stack_bytes": machine.kernel_stack,
        "context_switches": switches,
        "cpu_ms": millis(process.cpu),
        "status_cpu_ms": millis(status_cpu),
        "accepts": counters.accepted.get(),
        "rejections": counters.rejections.get().values().sum::<u64>(),
        "events_in": counters.published.get(),
        "events_out": counters.delivered.get(),
        "bytes_out": counters.sent_bytes.get(),
        "log_lines_dropped": dropped_log_lines(),
        "capacity": capacity.clients(),
        "binding_limit": capacity.binding().name,
        "raise": capacity.binding().raise,
        "limits": capacity.bounds().iter().map(limit).collect::<Vec<_>>(),
        "client_bytes": costs(server.costs.client()),
        "reserved_bytes": costs(server.costs.reserved()),
        "history_bytes": server.hub.history_bytes(),
        "history_total": server.costs.history_total(),
        "thread_groups": groups.iter().map(group).collect::<Vec<_>>(),
    });
    if let Some(reachable) = server.hub.reaches_the_log() {
        status["redis"] = json!({ "reachable": reachable });
    }
    for (name, value) in server.attached.hooks.iter().filter_map(|hooks| hooks.status()) {
        status[name] = value;
    }
    status
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn group(group: &ThreadGroup) -> Value {
    let ThreadGroup { name, waits_for, state, threads, switches: (voluntary, involuntary), named } =
        group;
    json!({
        "name": name, "threads": threads, "state": state.to_string(), "waits_for": waits_for,
        "voluntary": voluntary, "involuntary": involuntary, "named": named,
    })
}

/// Returns a JSON object that maps the name of each part to the memory that the part takes, in
/// bytes.
fn costs(parts: &[Cost]) -> Value {
    parts.iter().map(|cost| (cost.name.to_owned(), Value::from(cost.memory))).collect()
}

fn limit(bound: &Bound) -> Value {
    let Bound { name, limit, used, clients, .. } = bound;
    json!({ "name": name, "limit": limit, "used": used, "clients": clients })
}

/// Returns the document of `GET /status` as an event for the stream at `/status/stream`.
pub(super) fn event(server: &ServerState) -> Event {
    let mut kept = server.kept_status.lock().unwrap_or_else(PoisonError::into_inner);
    Event::new(json(server, &mut kept).to_string())
}

/// Answers `GET /readyz`: whether a load balancer should send new clients to this server.
pub(super) fn ready(server: &ServerState) -> Answer {
    if server.is_ready() {
        return Answer::text("ready\n");
    }
    let text = if server.is_draining() { "draining\n" } else { "retired\n" };
    Answer::text(text).with_status(503)
}

/// Answers `GET /status`.
pub(super) fn status(exchange: &Exchange<'_>) -> Result<Reply, HttpError> {
    ReadAccess::of(exchange, Api::Own)?;
    Ok(Reply::Answer(Answer::json(&json(exchange.server, &mut KeptStatus::default()))))
}
