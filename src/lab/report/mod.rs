//! The report of a lab run: as text, as an HTML page, as JSON and as plots.

mod columns;
mod html;
mod json;
mod plot;
mod text;
mod words;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub(crate) use self::text::text;
use self::words::Language;
use super::results::Results;

/// The files that every report has. Plots are written only for the experiments that were measured.
pub(super) const FILES: [&str; 2] = ["samples.json", "report.html"];

/// Writes `report.html`, `samples.json` and the plots as SVG into an existing folder.
///
/// Returns the path of `report.html`.
///
/// # Errors
///
/// Fails if a file cannot be written.
pub(crate) fn write(results: &Results, folder: &Path) -> io::Result<PathBuf> {
    let [samples, page] = FILES.map(|name| folder.join(name));
    fs::write(samples, json::json(results))?;
    for experiment in results.experiments() {
        for plot in plot::plots(results, experiment, Language::English) {
            fs::write(folder.join(plot.name).with_extension("svg"), plot::for_file(&plot.svg))?;
        }
    }
    fs::write(&page, html::html(results))?;
    Ok(page)
}
