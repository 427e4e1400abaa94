//! The six experiments: their names and their order.

/// An experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Experiment {
    /// What does an idle client cost?
    Idle,
    /// What does an event cost?
    Event,
    /// How late does the last client get an event?
    Latency,
    /// One request runs a slow handler: how does this affect the other clients?
    Slow,
    /// One client stops reading: how does this affect the other clients?
    Stuck,
    /// How many clients can an engine hold, and what happens to further clients?
    Capacity,
}

impl Experiment {
    /// All experiments, in the order in which they are run and reported.
    pub(crate) const ALL: [Self; 6] =
        [Self::Idle, Self::Event, Self::Latency, Self::Slow, Self::Stuck, Self::Capacity];

    /// Returns the name on the command line and in the JSON report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Event => "event",
            Self::Latency => "latency",
            Self::Slow => "slow",
            Self::Stuck => "stuck",
            Self::Capacity => "capacity",
        }
    }

    /// Returns the experiment of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|experiment| experiment.name() == name)
    }

    /// Returns the name of the figure that is compared between runs to detect noise.
    pub(crate) fn headline(self) -> &'static str {
        match self {
            Self::Idle => "memory_bytes",
            Self::Event | Self::Stuck => "cpu_us",
            Self::Latency => "p50_ms",
            Self::Slow => "disk_silence_ms",
            Self::Capacity => "held",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_experiment_is_found_by_its_name() {
        let names = Experiment::ALL.map(Experiment::name);
        assert_eq!(names, ["idle", "event", "latency", "slow", "stuck", "capacity"]);
        assert_eq!(names.map(Experiment::named), Experiment::ALL.map(Some));
    }
}
