//! How the server is: for people and pages as JSON, for Prometheus as text.

use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry as Page;
use serde_json::{Value, json};

use super::answer::Answer;
use super::{ServerState, load_clients};
use crate::capacity::{Bound, Cost};
use crate::counters::{Label, dropped_log_lines};
use crate::event::Event;
use crate::process::{self, Process, ThreadGroup, thread_time};

/// `GET /status`. What the looking has cost so far is told too, so that whoever watches the
/// processor's time can take it off.
pub(super) fn json(server: &ServerState) -> Value {
    let began = thread_time();
    let status = look(server);
    let nanos = thread_time().saturating_sub(began).as_nanos();
    server.looking.fetch_add(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::Relaxed);
    status
}

fn look(server: &ServerState) -> Value {
    let looking = Duration::from_nanos(server.looking.load(Ordering::Relaxed));
    let (process, groups) = Process::with_threads();
    let clients = server.admission.clients();
    let capacity = server.capacity(clients);
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
        "max_connections": server.connections.most(),
        "connections_shed": counters.shed.get(),
        "threads": process.threads,
        "memory_bytes": process.resident,
        "kernel_memory_bytes": machine.kernel,
        "kernel_stack_bytes": machine.kernel_stack,
        "context_switches": switches,
        "cpu_ms": millis(process.cpu),
        "status_cpu_ms": millis(looking),
        "accepts": counters.accepted.get(),
        "rejections": counters.rejected(),
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
    if let Some(lab) = &server.lab {
        let stuck = server.hub.subscribers(load_clients::STUCK);
        status["lab"] = lab.load_clients.json(stuck, counters.ended("stuck"));
    }
    status
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn group(group: &ThreadGroup) -> Value {
    let ThreadGroup { name, waits, state, threads, switches: (waited, made), named } = group;
    json!({
        "name": name, "threads": threads, "state": state.to_string(), "waits_for": waits,
        "voluntary": waited, "involuntary": made, "named": named,
    })
}

/// The parts by their names.
fn costs(parts: &[Cost]) -> Value {
    parts.iter().map(|cost| (cost.name.to_owned(), Value::from(cost.memory))).collect()
}

fn limit(bound: &Bound) -> Value {
    let Bound { name, limit, used, clients, .. } = bound;
    json!({ "name": name, "limit": limit, "used": used, "clients": clients })
}

/// The same, for those who listen to `/status/stream`.
pub(super) fn event(server: &ServerState) -> Event {
    Event::new(json(server).to_string())
}

/// `GET /readyz`: whether whoever spreads the load should send somebody here.
pub(super) fn ready(server: &ServerState) -> Answer {
    if server.is_draining() {
        return Answer::text("draining\n").with_status(503);
    }
    Answer::text("ready\n")
}

/// `GET /metrics`, in the text format that every collector reads.
pub(super) fn metrics(server: &ServerState) -> Answer {
    let mut page = Page::with_prefix("threadcast");
    server.counters.register(&mut page);
    let clients = server.admission.clients();
    let capacity = server.capacity(clients);
    let process = Process::now();
    let bytes = i64::try_from(process.resident).unwrap_or(i64::MAX);
    let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let mut gauge = |name: &str, help: &str, value: i64| {
        let gauge: Gauge = Gauge::default();
        gauge.set(value);
        page.register(name, help, gauge);
    };
    gauge("clients", "Streams that are open", number(clients));
    gauge("max_clients", "Streams that may be open", number(server.admission.max_clients));
    let (open, most) = (server.connections.open(), server.connections.most());
    gauge("connections", "Connections that are open and not streams", number(open));
    let help = "Connections that may be open besides the streams that are open now";
    gauge("max_connections", help, number(most));
    gauge("threads", "Threads of this process", i64::try_from(process.threads).unwrap_or(0));
    gauge("resident_memory_bytes", "Memory of this process that is resident", bytes);
    gauge("draining", "Whether the server is about to stop", i64::from(server.is_draining()));
    gauge("capacity_clients", "Clients that this process could hold", number(capacity.clients()));
    let (each, binds) = (Family::<Label, Gauge>::default(), Family::<Label, Gauge>::default());
    for bound in capacity.bounds().iter().rev() {
        // Of two control groups the narrower one is the limit.
        each.get_or_create(&[("limit", bound.name)]).set(number(bound.clients));
        binds.get_or_create(&[("limit", bound.name)]).set(0);
    }
    binds.get_or_create(&[("limit", capacity.binding().name)]).set(1);
    page.register("limit_clients", "Clients that each limit leaves room for", each);
    page.register("limit_is_binding", "Which limit is reached first", binds);
    let mut openmetrics = String::new();
    text::encode(&mut openmetrics, &page).expect("a String takes everything");
    Answer::metrics(classic(&openmetrics))
}

/// The older text format: there a counter's own name ends with `_total`, not only
/// its sample's, and the end is not marked.
fn classic(openmetrics: &str) -> String {
    let counters: Vec<&str> = (openmetrics.lines())
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines().filter(|line| *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(kind), Some(name), Some(rest)) if counters.contains(&name) => {
                text.extend(["# ", kind, " ", name, "_total ", rest]);
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_named_as_the_older_format_names_them() {
        let text = "# HELP a Things.\n# TYPE a counter\na_total 1\n# HELP b B a.\n# TYPE b gauge\nb 2\n# EOF\n";
        let expected = "# HELP a_total Things.\n# TYPE a_total counter\na_total 1\n# HELP b B a.\n# TYPE b gauge\nb 2\n";
        assert_eq!(classic(text), expected);
    }
}
