//! Reports the server's counters and limits to Prometheus.

use std::fmt::{Display, Write as _};

use super::access::{Api, ReadAccess};
use super::answer::Answer;
use super::error::HttpError;
use super::exchange::Exchange;
use super::reply::Reply;
use super::server_state::ServerState;
use crate::counters::{Counter, Counters, Histogram, MEMORY, dropped_log_lines};
use crate::process::{Process, listen_overflows};

/// Answers `GET /metrics`, in the text format of Prometheus, version 0.0.4.
pub(super) fn metrics(exchange: &Exchange<'_>) -> Result<Reply, HttpError> {
    ReadAccess::of(exchange, Api::Own)?;
    let mut page = Page::default();
    page.counters(&exchange.server.counters);
    page.publishing(exchange.server);
    page.gauges(exchange.server);
    for metric in exchange.server.attached.hooks.iter().flat_map(|hooks| hooks.metrics()) {
        if metric.is_counter {
            page.counter(metric.name, metric.help, metric.value);
        } else {
            page.gauge(metric.name, metric.help, metric.value);
        }
    }
    Ok(Reply::Answer(Answer::metrics(page.0)))
}

/// The text for Prometheus.
#[derive(Default)]
struct Page(String);

impl Page {
    fn counters(&mut self, counters: &Counters) {
        self.counter("accepts", "Accepted connections", counters.accepted.get());
        if let Some(overflows) = listen_overflows() {
            let help = "Connections that the kernel dropped because a program's queue of new \
                        connections was full, on this machine since boot";
            self.counter("listen_overflows", help, overflows);
        }
        let help = "Rejected streams, and connections that could not be served, by reason";
        self.head("rejections_total", "counter", help);
        self.samples("rejections_total", "reason", counters.rejections.get());
        let help = "Connections without a stream, closed to make room for others";
        self.counter("shed_connections", help, counters.shed.get());
        self.head("stream_ends_total", "counter", "Ended streams, by reason");
        self.samples("stream_ends_total", "reason", counters.ends.get());
        self.head("reloads_total", "counter", "Reloads of tokens, keys and pages, by result");
        self.samples("reloads_total", "result", counters.reloads.get());
        self.head("jwks_fetches_total", "counter", "Fetches of the key set, by result");
        self.samples("jwks_fetches_total", "result", counters.key_fetches.get());
        let help = "Published events, including the ticker's";
        self.counter("events_in", help, counters.published.get());
        let help = "Sent events, counted once per client";
        self.counter("events_out", help, counters.delivered.get());
        self.counter("sent_bytes", "Bytes sent in streams", counters.sent_bytes.get());
        self.counter("gaps", "Gaps reported to clients", counters.gaps.get());
        let help = "Time from admitting a stream to its first byte";
        self.histogram("first_byte_seconds", help, &counters.first_byte);
        let help = "Time of a commit of the store, including the sync to the disk";
        self.histogram("store_commit_seconds", help, &counters.committing);
        let help = "Time from publishing an event to sending its batch to all caught-up clients";
        self.histogram("delivery_lag_seconds", help, &counters.lag);
        let help = "Time from a peer's disconnect to the release of its thread and descriptor";
        self.histogram("disconnect_seconds", help, &counters.disconnects);
        let help = "Log lines dropped because the reader of the log was too slow";
        self.counter("log_lines_dropped", help, dropped_log_lines());
    }

    /// Adds the times of publishing: in memory, which the clock uses too, and in the store.
    fn publishing(&mut self, server: &ServerState) {
        let help = "Time from a publish request to its response being known, by store";
        self.head("publish_seconds", "histogram", help);
        let store = server.hub.store();
        for store in [MEMORY, store].into_iter().skip(usize::from(store == MEMORY)) {
            if let Some(publishing) = server.counters.publishing(store) {
                self.buckets("publish_seconds", &format!("store=\"{store}\""), publishing);
            }
        }
    }

    fn gauges(&mut self, server: &ServerState) {
        if let Some(reachable) = server.hub.reaches_the_log() {
            let help = "Whether Redis could be reached at the last attempt (1) or not (0)";
            self.gauge("redis_reachable", help, u8::from(reachable));
        }
        let clients = server.admission.clients();
        let capacity = server.capacity(clients);
        let process = Process::now();
        if let Some(streams) = &server.durable {
            let ((count, most), (bytes, most_bytes)) = (streams.count(), streams.room());
            let help = "Durable streams, including deleted ones that forks still read";
            self.gauge("durable_streams", help, count);
            self.gauge("max_durable_streams", "Maximum number of durable streams", most);
            self.gauge(
                "durable_bytes",
                "Bytes of all durable streams, in memory or in the store",
                bytes,
            );
            let help = "Maximum bytes of all durable streams";
            self.gauge("max_durable_bytes", help, most_bytes);
        }
        self.gauge("clients", "Open streams", clients);
        self.gauge("max_clients", "Maximum number of streams", server.admission.max_clients);
        let help = "Open connections that are not streams";
        self.gauge("connections", help, server.connections.open());
        let help = "Maximum number of connections besides the open streams";
        self.gauge("max_connections", help, server.connections.max());
        self.gauge("threads", "Threads of this process", process.threads);
        let help = "Resident memory of this process in bytes";
        self.gauge("resident_memory_bytes", help, process.resident);
        let help = "Whether the server is draining (1) or not (0)";
        self.gauge("draining", help, u8::from(server.is_draining()));
        self.gauge("capacity_clients", "Clients that this process can hold", capacity.clients());
        // The limits of two control groups can have the same name. Of these, the metric shows the
        // one that allows fewer clients: the first.
        let mut bounds: Vec<(&str, usize)> = Vec::new();
        for bound in capacity.bounds() {
            if bounds.iter().all(|(name, _)| *name != bound.name) {
                bounds.push((bound.name, bound.clients));
            }
        }
        let binding = capacity.binding().name;
        let is_binding = bounds.iter().map(|(name, _)| (*name, u8::from(*name == binding)));
        let is_binding: Vec<_> = is_binding.collect();
        self.head("limit_clients", "gauge", "Clients that each limit allows");
        self.samples("limit_clients", "limit", bounds);
        let help = "Whether the limit is reached first (1) or not (0)";
        self.head("limit_is_binding", "gauge", help);
        self.samples("limit_is_binding", "limit", is_binding);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(&format!("{name}_total"), "counter", help);
        self.line(format_args!("{name}_total {value}"));
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "gauge", help);
        self.line(format_args!("{name} {value}"));
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        self.buckets(name, "", histogram);
    }

    /// Adds the samples of a histogram with this label, if it is not empty.
    fn buckets(&mut self, name: &str, label: &str, histogram: &Histogram) {
        let (comma, of) = match label {
            "" => ("", String::new()),
            label => (",", format!("{{{label}}}")),
        };
        // A bucket of Prometheus includes all buckets before it.
        let mut count = 0;
        for (end, bucket) in histogram.buckets() {
            count += Counter::get(bucket);
            self.line(format_args!("{name}_bucket{{{label}{comma}le=\"{end}\"}} {count}"));
        }
        count += histogram.longer();
        self.line(format_args!("{name}_bucket{{{label}{comma}le=\"+Inf\"}} {count}"));
        self.line(format_args!("{name}_sum{of} {}", histogram.sum().as_secs_f64()));
        self.line(format_args!("{name}_count{of} {count}"));
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP threadcast_{name} {help}.");
        let _ = writeln!(self.0, "# TYPE threadcast_{name} {kind}");
    }

    /// Adds a value for each value of a label. The labels are names in our source, which need no
    /// escapes.
    fn samples<V: Display>(
        &mut self,
        name: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'static str, V)>,
    ) {
        for (of, value) in values {
            self.line(format_args!("{name}{{{label}=\"{of}\"}} {value}"));
        }
    }

    fn line(&mut self, sample: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.0, "threadcast_{sample}"); // writing to a String cannot fail
    }
}
