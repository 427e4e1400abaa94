//! Measures how fast one reader catches up with a durable stream.

use std::io::{self, Read};
use std::time::Instant;

use serde::Serialize;
use sse_load::figures::{digits, float, median};
use sse_load::meter::Spent;
use ureq::{Agent, Body, http};

use crate::engine::{Engine, Start};
use crate::options::Options;
use crate::peer::Peer;

/// The number of appends before the reader begins, each of [`APPEND`] bytes.
const APPENDS: usize = 100;
const APPEND: usize = 1024 * 1024;

/// The measurements of one engine.
#[derive(Debug, Serialize)]
pub struct Result {
    engine: &'static str,
    samples: Vec<Sample>,
}

#[derive(Debug, Serialize)]
struct Sample {
    megabytes_per_second: f64,
    /// The CPU time of the server for each megabyte.
    cpu_us: f64,
    responses: usize,
}

impl Result {
    /// Measures an engine as often as the options say. Returns `None` if it has no durable streams.
    pub fn measure(engine: Engine, start: &Start, options: &Options) -> io::Result<Option<Self>> {
        let Start::DurableStreams { path, .. } = start else { return Ok(None) };
        let mut samples = Vec::new();
        for run in 1..=options.runs {
            eprintln!("catch-up run {run} of {}: {}", options.runs, engine.name());
            samples.push(Sample::measure(start, path, options)?);
        }
        Ok(Some(Self { engine: engine.title(), samples }))
    }

    /// Returns the medians as a line of text.
    pub fn line(&self) -> String {
        let cell = |value: fn(&Sample) -> f64, places| {
            median(self.samples.iter().map(value)).map_or("–".into(), |it| digits(it, places))
        };
        let rate = cell(|sample| sample.megabytes_per_second, 0);
        let (cpu, responses) =
            (cell(|sample| sample.cpu_us, 0), cell(|sample| float(sample.responses as u64), 0));
        format!(
            "catch-up of 100 MiB, {}: {rate} MB/s, {cpu} µs of CPU for each MB, {responses} responses",
            self.engine
        )
    }
}

impl Sample {
    fn measure(start: &Start, path: &str, options: &Options) -> io::Result<Self> {
        let peer = Peer::start(start, options.cores)?;
        let agent: Agent = Agent::config_builder().proxy(None).build().into();
        let url = format!("http://{}{path}", peer.server());
        for _ in 0..APPENDS {
            let post = agent.post(&url).content_type("text/plain").send("x".repeat(APPEND));
            post.map_err(io::Error::other)?;
        }
        let (before, began) = (Spent::now(peer.process(), options.cores)?, Instant::now());
        let (mut offset, mut bytes, mut responses) = ("-1".to_owned(), 0, 0);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let response = agent.get(&url).query("offset", &offset).call();
            let mut response = response.map_err(io::Error::other)?;
            responses += 1;
            let mut body = response.body_mut().as_reader();
            loop {
                match body.read(&mut buffer)? {
                    0 => break,
                    read => bytes += read,
                }
            }
            if text(&response, "stream-up-to-date") == "true" {
                break;
            }
            offset = text(&response, "stream-next-offset");
        }
        let seconds = began.elapsed().as_secs_f64();
        if bytes != APPENDS * APPEND {
            return Err(io::Error::other(format!("the reader got {bytes} bytes")));
        }
        let megabytes = float(bytes as u64) / 1e6;
        let cpu = Spent::now(peer.process(), options.cores)?.since(&before).cpu;
        let (megabytes_per_second, cpu_us) = (megabytes / seconds, cpu * 1e6 / megabytes);
        Ok(Self { megabytes_per_second, cpu_us, responses })
    }
}

fn text(response: &http::Response<Body>, header: &str) -> String {
    let value = response.headers().get(header).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}
