//! Describes the machine that the lab runs on. The report contains this description.

use std::fs;

use super::figures::{digits, float};
use super::process::{Cores, siblings};

/// Converts a value of `/proc/meminfo`, such as `24685168 kB`. Any other value is returned as it is.
fn megabytes(value: &str) -> String {
    let kib = value.strip_suffix(" kB").and_then(|kib| kib.parse::<u64>().ok());
    kib.map_or_else(|| value.to_owned(), |kib| format!("{} MB", digits(float(kib) / 1024.0, 0)))
}

/// Returns the machine's properties as names and values, in the order of the report.
#[must_use]
pub fn describe(cores: Cores) -> Vec<(&'static str, String)> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split_once(':').map_or("", |(_, value)| value).trim().to_owned()
    };
    let online = read("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count();
    let others = cores.server.iter().flat_map(siblings).filter(|it| !cores.server.contains(*it));
    let others: Vec<_> = others.map(|core| format!("core {core}")).collect();
    let shared = if others.is_empty() { "none".into() } else { others.join(", ") };
    vec![
        ("cpu", field(&read("/proc/cpuinfo"), "model name")),
        ("cores", online.to_string()),
        ("server core", cores.server.to_string()),
        ("load core", cores.load.to_string()),
        ("the server core shares its core with", shared),
        ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("memory", megabytes(&field(&read("/proc/meminfo"), "MemTotal"))),
    ]
}

#[cfg(test)]
mod tests {
    use super::megabytes;

    #[test]
    fn memory_is_in_megabytes() {
        assert_eq!(megabytes("24685168 kB"), "24,107 MB");
        assert_eq!(megabytes(""), "");
    }
}
