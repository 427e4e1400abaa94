//! The command `load`: opens clients on a server of any make, publishes events, and reports.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use serde_json::{Map, Value, json};
use sse_load::figures::{digits, float};
use sse_load::load::{Histogram, Load, Plan};
use sse_load::process::most_clients;
use sse_load::tick::{Tick, Traffic};
use threadcast::Token;
use ureq::Agent;
use ureq::http::header::AUTHORIZATION;

use crate::cli;

/// The size of a published event's data, in bytes.
const DATA: usize = 64;

/// The time limit for one POST.
const POST_TIMEOUT: Duration = Duration::from_secs(10);

/// The maximum pause between two checks for a signal and for a failed publisher.
const TURN: Duration = Duration::from_millis(100);

/// After the last published event, the clients read until nothing arrives for this long, so that
/// events in transit do not count as lost.
const QUIET: Duration = Duration::from_millis(300);
const QUIET_TIMEOUT: Duration = Duration::from_secs(5);

/// The quantiles in the report.
const QUANTILES: [(f64, &str); 4] = [(0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9")];

/// What the load generator measured.
#[derive(Debug)]
pub(crate) struct Report {
    url: String,
    clients: usize,
    connected: usize,
    rejected: Vec<(String, usize)>,
    connect: Times,
    first_byte: Times,
    seconds: f64,
    events: u64,
    published: Option<Published>,
    latency: Option<Times>,
    lost: Option<Lost>,
    repeated: u64,
    gaps: u64,
    ended: usize,
    cut: usize,
}

/// The quantiles of a time and its maximum, in milliseconds.
#[derive(Debug)]
struct Times(Vec<(&'static str, f64)>);

/// The number of lost events, summed over all clients, and how it was found.
#[derive(Debug)]
struct Lost {
    events: u64,
    by: &'static str,
}

/// What the publisher did.
#[derive(Debug, Default)]
struct Published {
    events: u64,
    due: u64,
    failed: u64,
    /// Why the first of the failed requests failed.
    failure: Option<String>,
}

/// Runs the load that `options` describes, until its time has passed or `stop` is set.
pub(crate) fn run(options: &cli::Load, stop: &AtomicBool) -> Result<Report, Box<dyn Error>> {
    let clients = usize::try_from(options.clients)?;
    let most = most_clients()?;
    if clients > most {
        return Err(format!(
            "cannot open {clients} clients: the descriptor limit leaves room for {most}; raise it \
             (ulimit -n) or pass --clients {most}"
        )
        .into());
    }
    let url = &options.url;
    let plan = Plan::of_url(url).map_err(|error| format!("cannot connect to {url}: {error}"))?;
    let token = options.token().map(|token| token.secret().to_owned());
    let plan = Plan { clients, token, ..plan };
    let mut load = Load::open(&plan)
        .map_err(|error| format!("cannot open {clients} clients on {url}: {error}"))?;
    if load.opening().accepted == 0 {
        let reasons = load.rejections();
        let reasons: Vec<_> = reasons.keys().copied().collect();
        return Err(format!("no client has a stream of {url}: {}", reasons.join(", ")).into());
    }
    let publishing = options.rate.map(|rate| Publisher::start(options, rate)).transpose()?;
    let began = Instant::now();
    let deadline = began + options.time();
    while Instant::now() < deadline && load.connected() > 0 && !stop.load(Ordering::Relaxed) {
        load.read_for(TURN.min(deadline.saturating_duration_since(Instant::now())))?;
        if publishing.as_ref().is_some_and(|it| it.thread.is_finished()) {
            break; // nothing could be published
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let published = publishing.map(Publisher::stop).transpose()?;
    if published.is_some() {
        load.read_until_quiet(QUIET, QUIET_TIMEOUT)?;
    }
    Ok(Report::new(url.to_string(), &load, seconds, published))
}

/// A thread that publishes events.
struct Publisher {
    thread: JoinHandle<Result<Published, String>>,
    /// The thread stops when this is dropped.
    running: Sender<()>,
}

impl Publisher {
    fn start(options: &cli::Load, rate: u32) -> io::Result<Self> {
        let (url, token) = (options.publish_url().to_string(), options.token().cloned());
        let (running, stopped) = crossbeam_channel::bounded(0);
        let publish = move || publish(&url, token.as_ref(), rate, &stopped);
        let thread = thread::Builder::new().name("publisher".into()).spawn(publish)?;
        Ok(Self { thread, running })
    }

    fn stop(self) -> Result<Published, String> {
        drop(self.running);
        self.thread.join().expect("the publisher does not panic")
    }
}

/// Publishes `rate` events per second until `stopped` is disconnected. Fails if the first event
/// cannot be published.
fn publish(
    url: &str,
    token: Option<&Token>,
    rate: u32,
    stopped: &Receiver<()>,
) -> Result<Published, String> {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None) // the clients connect directly, too
        .timeout_global(Some(POST_TIMEOUT));
    let agent = Agent::new_with_config(config.build());
    let mut tick = Tick::new();
    tick.set(Traffic { rate, frame: DATA });
    let (started, mut published) = (Instant::now(), Published::default());
    while stopped.recv_timeout(tick.pause()).is_err_and(|error| error.is_timeout()) {
        while let Some(number) = tick.due() {
            match post(&agent, url, token, &tick.data(number, 0)) {
                Ok(()) => published.events += 1,
                Err(error) if published.events == 0 => {
                    return Err(format!("cannot publish to {url}: {error}"));
                }
                Err(error) => {
                    published.failed += 1;
                    published.failure.get_or_insert(error);
                }
            }
            if stopped.try_recv().is_err_and(|error| error.is_disconnected()) {
                break;
            }
        }
    }
    let due = started.elapsed().as_millis() * u128::from(rate) / 1_000;
    published.due = u64::try_from(due).unwrap_or(u64::MAX);
    Ok(published)
}

fn post(agent: &Agent, url: &str, token: Option<&Token>, data: &str) -> Result<(), String> {
    let mut request = agent.post(url).content_type("text/plain; charset=utf-8");
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {}", token.secret()));
    }
    let mut response = request.send(data).map_err(|error| error.to_string())?;
    // The body is read, so that the next event can use the same connection.
    let body = response.body_mut().read_to_string().unwrap_or_default();
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let advice = match status.as_u16() {
        401 | 403 => "; pass a token that may publish with --token",
        404 | 405 => "; pass the URL that accepts a POST with --publish",
        _ => "",
    };
    let detail = serde_json::from_str::<Value>(&body).unwrap_or_default();
    let detail = detail["detail"].as_str().map(|detail| format!(": {detail}"));
    Err(format!("the server answered {status}{}{advice}", detail.unwrap_or_default()))
}

impl Report {
    fn new(url: String, load: &Load, seconds: f64, published: Option<Published>) -> Self {
        let (window, opening) = (load.window(), load.opening());
        let lost = if window.stamped > 0 {
            Some(Lost { events: window.lost + window.behind, by: "data" })
        } else {
            let ids = window.ids;
            ids.count_events().then_some(Lost { events: ids.missing, by: "ids" })
        };
        let disconnected = opening.accepted - load.connected();
        Self {
            url,
            clients: load.opened(),
            connected: opening.accepted,
            rejected: load.rejections().into_iter().map(|(why, n)| (why.into(), n)).collect(),
            connect: Times::of(load.connect_times()),
            first_byte: Times::of(load.first_byte_times()),
            seconds,
            events: window.delivered,
            published,
            latency: (window.latency.count() > 0).then(|| Times::of(window.latency)),
            repeated: if window.stamped > 0 { window.repeated } else { window.ids.repeated },
            lost,
            gaps: window.gaps,
            ended: disconnected.saturating_sub(window.cut),
            cut: window.cut,
        }
    }

    /// Returns the report as a JSON object.
    pub(crate) fn json(&self) -> Value {
        let rejected: Map<_, _> =
            self.rejected.iter().map(|(why, count)| (why.clone(), (*count).into())).collect();
        json!({
            "url": self.url,
            "clients": self.clients,
            "connected": self.connected,
            "rejected": rejected,
            "seconds": self.seconds,
            "connect_ms": self.connect.json(),
            "first_byte_ms": self.first_byte.json(),
            "events": self.events,
            "published": self.published.as_ref().map(|it| it.events),
            "publish_failures": self.published.as_ref().map(|it| it.failed),
            "latency_ms": self.latency.as_ref().map(Times::json),
            "lost": self.lost.as_ref().map(|it| it.events),
            "lost_found_by": self.lost.as_ref().map(|it| it.by),
            "repeated": self.repeated,
            "gap_events": self.gaps,
            "ended": self.ended,
            "cut": self.cut,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |count: u64| digits(float(count), 0);
        let row =
            |f: &mut fmt::Formatter<'_>, name: &str, value: &str| writeln!(f, "{name:<14}{value}");
        writeln!(f, "{}, {:.1} s", self.url, self.seconds)?;
        let clients = (count(self.connected as u64), count(self.clients as u64));
        row(f, "clients", &format!("{} of {} have a stream", clients.0, clients.1))?;
        for (why, clients) in &self.rejected {
            row(f, "rejected", &format!("{}: {why}", count(*clients as u64)))?;
        }
        row(f, "connect", &self.connect.to_string())?;
        row(f, "first byte", &self.first_byte.to_string())?;
        if let Some(Published { events, due, failed, failure }) = &self.published {
            row(f, "published", &format!("{} of {} events due", count(*events), count(*due)))?;
            if let Some(failure) = failure {
                row(f, "", &format!("{} failed: {failure}", count(*failed)))?;
            }
        }
        let rate = digits(float(self.events) / self.seconds, 0);
        row(f, "received", &format!("{} events, {rate} a second", count(self.events)))?;
        let no_latency = "not measured: no event has a number and a time (see --help)";
        let latency = self.latency.as_ref().map_or(no_latency.into(), Times::to_string);
        row(f, "latency", &latency)?;
        let lost = match &self.lost {
            Some(Lost { events, by: "data" }) => count(*events),
            Some(Lost { events, .. }) => format!("{} (by the events' ids)", count(*events)),
            None => "not checked: neither data nor ids have consecutive numbers".into(),
        };
        row(f, "lost", &lost)?;
        if self.repeated > 0 {
            row(f, "repeated", &count(self.repeated))?;
        }
        if self.gaps > 0 {
            row(f, "gap events", &count(self.gaps))?;
        }
        let (ended, cut) = (count(self.ended as u64), count(self.cut as u64));
        write!(f, "{:<14}{ended} ended by the server, {cut} broken off", "disconnects")
    }
}

impl Times {
    fn of(times: &Histogram) -> Self {
        let millis = |time: Duration| time.as_secs_f64() * 1_000.0;
        let quantile = |(q, name)| Some((name, millis(times.quantile(q)?)));
        let quantiles = QUANTILES.into_iter().filter_map(quantile);
        Self(quantiles.chain([("max", millis(times.max()))]).collect())
    }

    fn json(&self) -> Value {
        let all = self.0.iter().map(|(name, millis)| ((*name).to_owned(), (*millis).into()));
        Value::Object(all.collect())
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times: Vec<_> =
            self.0.iter().map(|(name, millis)| format!("{name} {millis:.2} ms")).collect();
        f.write_str(&times.join("  "))
    }
}
