//! The report as text for a terminal.

use std::fmt::Write as _;

use super::columns::columns;
use super::words::{self, Language};
use crate::lab::results::Results;

/// Returns the whole report as text: the tutorials' sentence with the measured figures, the machine,
/// the notes, and a table for each question.
pub(crate) fn text(results: &Results) -> String {
    let mut text = words::sentence(results, Language::English) + "\n";
    for (name, it) in &results.machine {
        let _ = writeln!(text, "{name}: {it}");
    }
    for note in words::notes(results, Language::English) {
        let _ = writeln!(text, "note: {note}");
    }
    for experiment in results.experiments() {
        let _ = writeln!(text, "\n{}", words::question(experiment).en);
        let _ = writeln!(text, "  Expected: {}", words::prediction(experiment).en);
        let heading = columns(experiment).iter().map(|column| column.title.en.to_owned());
        let mut rows = vec![std::iter::once("engine".to_owned()).chain(heading).collect()];
        for engine in &results.engines {
            let cells = columns(experiment).iter();
            let cells =
                cells.map(|column| column.cell(results, experiment, *engine, Language::English));
            rows.push(std::iter::once(engine.name().to_owned()).chain(cells).collect());
        }
        text += &table(&rows);
        let _ = writeln!(text, "  {}", words::meaning(results, experiment, Language::English));
    }
    text
}

/// Formats rows as aligned columns. The first column is aligned to the left, the others to the
/// right.
fn table(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let mut text = String::new();
    for row in rows {
        for (index, cell) in row.iter().enumerate() {
            let width = width(index).unwrap_or(0);
            let _ = match index {
                0 => write!(text, "  {cell:<width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::engine::Engine;
    use crate::lab::experiment::Experiment;
    use crate::lab::results::Sample;

    #[test]
    fn report_marks_noisy_and_single_runs() {
        let (experiment, engine) = (Experiment::Event, Engine::Wake);
        let report = |values: &[f64]| {
            let sample = |(run, value): (usize, &f64)| Sample {
                experiment,
                engine,
                run: run + 1,
                clients: 10,
                rate: 5,
                noise: 0.0,
                figures: vec![(experiment.headline(), *value)],
            };
            let samples = values.iter().enumerate().map(sample).collect();
            text(&Results { engines: vec![engine], samples, ..Results::default() })
        };
        let differ = "noisy: event of wake: runs differ by more than 15 %";
        assert!(report(&[10.0, 12.0]).contains(differ));
        assert!(!report(&[10.0, 11.0]).contains("noisy"));
        assert!(report(&[10.0]).contains("measured once") && !report(&[1.0, 1.0]).contains("once"));
    }

    #[test]
    fn table_columns_are_aligned() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let text = table(&[row(["engine", "µs"]), row(["wake", "12.5"])]);
        assert_eq!(text, "  engine    µs\n  wake    12.5\n");
    }
}
