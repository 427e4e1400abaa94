//! The report: for the terminal, for a reader, for a program.

mod columns;
mod html;
mod json;
mod plot;
mod text;
mod words;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use text::text;

use super::results::Results;
use words::Language;

/// What is always written into the folder of a report; plots are, of what was measured.
pub(super) const FILES: [&str; 2] = ["samples.json", "report.html"];

/// Writes `report.html`, `samples.json` and the plots of the page as SVG into a folder that is there.
/// The page's path is the answer.
///
/// # Errors
///
/// When one of them cannot be written.
pub fn write(results: &Results, folder: &Path) -> io::Result<PathBuf> {
    let [samples, page] = FILES.map(|name| folder.join(name));
    fs::write(samples, json::json(results))?;
    for experiment in results.experiments() {
        for plot in plot::plots(results, experiment, Language::English) {
            fs::write(folder.join(plot.name).with_extension("svg"), plot.svg)?;
        }
    }
    fs::write(&page, html::html(results))?;
    Ok(page)
}
