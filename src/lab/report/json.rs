//! The report as JSON, with every sample.

use serde_json::{Map, Value, json};

use super::words;
use crate::lab::results::{Failure, Results, Sample};

/// Returns the report as JSON. Sizes are in bytes.
pub(super) fn json(results: &Results) -> String {
    let machine: Map<_, _> =
        results.machine.iter().map(|(name, it)| ((*name).into(), it.clone().into())).collect();
    let missing: Map<_, _> =
        results.missing.iter().map(|(it, how)| (it.name().into(), how.clone().into())).collect();
    let noise = results.noise();
    let noise = noise.iter().map(|(experiment, engine, why)| {
        json!({ "experiment": experiment.name(), "engine": engine.name(), "why": words::noise(*why).en })
    });
    let report = json!({
        "threadcast": env!("CARGO_PKG_VERSION"),
        "machine": machine,
        "seconds": results.seconds,
        "interrupted": results.interrupted,
        "clients": results.clients,
        "clamped": results.clamped,
        "load_socket": { "slab": results.socket.slab, "kernel": results.socket.kernel },
        "missing": missing,
        "noise": noise.collect::<Vec<_>>(),
        "failures": results.failures.iter().map(failure).collect::<Vec<_>>(),
        "samples": results.samples.iter().map(sample).collect::<Vec<_>>(),
    });
    format!("{report:#}\n")
}

fn sample(sample: &Sample) -> Value {
    let figures = sample.figures.iter().map(|(name, value)| ((*name).to_owned(), (*value).into()));
    json!({
        "experiment": sample.experiment.name(),
        "engine": sample.engine.name(),
        "run": sample.run,
        "clients": sample.clients,
        "rate": sample.rate,
        "noise": sample.noise,
        "figures": figures.collect::<Map<String, Value>>(),
    })
}

fn failure(failure: &Failure) -> Value {
    let Failure { experiment, engine, run, why } = failure;
    json!({ "experiment": experiment.name(), "engine": engine.name(), "run": run, "why": why })
}
