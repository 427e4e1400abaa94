//! The report as one HTML page in English and Chinese, light and dark. Switches in plain CSS select the
//! language and the colours.
//!
//! The page has no script and loads nothing: no font, no picture, no style sheet. It answers first: the
//! tutorials' sentence with the measured figures, and one table. How it was measured comes after that.

use std::fmt::Write as _;

use super::columns::{ANSWER, Column, columns};
use super::plot::{self, plots};
use super::words::{self, Language, Text};
use crate::lab::engine::Engine;
use crate::lab::experiment::Experiment;
use crate::lab::results::Results;

const STYLE: &str = include_str!("report.css");

/// Returns the report as an HTML page.
pub(super) fn html(results: &Results) -> String {
    let mut page = String::from(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>threadcast lab</title>\n<style>\n",
    );
    page += STYLE;
    page += "</style>\n</head>\n<body>\n<header><b>threadcast lab</b><div>";
    let both = |en, zh| format!("<span class=\"en\">{en}</span><span class=\"zh\">{zh}</span>");
    let (auto, light, dark) = (both("Auto", "自动"), both("Light", "浅色"), both("Dark", "深色"));
    for (name, choices) in [
        ("language", &[("en", "English"), ("zh", "中文")][..]),
        ("colours", &[("auto", &*auto), ("light", &*light), ("dark", &*dark)]),
    ] {
        let _ = write!(page, "<fieldset><legend class=\"away\">{name}</legend>");
        for (index, (id, label)) in choices.iter().enumerate() {
            let checked = if index == 0 { " checked" } else { "" };
            let _ = write!(
                page,
                "<label><input type=\"radio\" name=\"{name}\" id=\"{id}\"{checked}>{label}</label>"
            );
        }
        page += "</fieldset>";
    }
    page += "</div></header>\n";
    for language in Language::ALL {
        let tag = language.tag();
        let _ = writeln!(page, "<main class=\"{tag}\" lang=\"{tag}\">");
        body(&mut page, results, language);
        page += "</main>\n";
    }
    page + "</body>\n</html>\n"
}

fn body(page: &mut String, results: &Results, language: Language) {
    answer(page, results, language);
    for experiment in results.experiments() {
        section(page, results, experiment, language);
    }
    engines(page, results, language);
}

/// Writes the answer: the tutorials' sentence, the same sentence with the measured figures, and the
/// figures of all engines; then what limits their value.
fn answer(page: &mut String, results: &Results, language: Language) {
    let (says, here) = match language {
        Language::English => ("The tutorials say:", "Measured here:"),
        Language::Chinese => ("教程说：", "在本机测得："),
    };
    let said = words::SENTENCE.of(language);
    let _ = writeln!(page, "<blockquote><b>{says}</b> {said}</blockquote>");
    let title = Text {
        en: "What one thread for each connection costs on this machine",
        zh: "在这台机器上，每个连接一个线程的开销",
    };
    match &*words::sentence(results, language) {
        "" => writeln!(page, "<h1>{}</h1>", title.of(language)),
        measured => writeln!(page, "<h1><b>{here}</b> {}</h1>", escape(measured)),
    }
    .expect("a string takes all text");
    let measured: Vec<_> = results.experiments().collect();
    let columns: Vec<_> = ANSWER.iter().filter(|(it, _)| measured.contains(it)).collect();
    if !columns.is_empty() {
        let columns = columns.iter().map(|(experiment, column)| (*experiment, column));
        table(page, results, &columns.collect::<Vec<_>>(), language);
    }
    let machine = results.machine.iter().map(|(name, it)| format!("{name}: {it}"));
    let machine: Vec<_> = machine.collect();
    let _ = writeln!(page, "<p class=\"machine\">{}</p>", escape(&machine.join(" · ")));
    let notes = words::notes(results, language);
    if !notes.is_empty() {
        page.push_str("<ul class=\"notes\">");
        for note in notes {
            let _ = write!(page, "<li>{}</li>", escape(&note));
        }
        page.push_str("</ul>\n");
    }
}

fn section(page: &mut String, results: &Results, experiment: Experiment, language: Language) {
    let expected = Text { en: "Expected:", zh: "预测：" }.of(language);
    let _ = writeln!(page, "<section>\n<h2>{}</h2>", words::question(experiment).of(language));
    let meaning = escape(&words::meaning(results, experiment, language));
    let _ = writeln!(page, "<p class=\"meaning\">{meaning}</p>");
    let prediction = words::prediction(experiment).of(language);
    let _ = writeln!(page, "<p class=\"expected\"><b>{expected}</b> {prediction}</p>");
    page.push_str("<div class=\"plots\">\n");
    for plot in plots(results, experiment, language) {
        let title = plot.title.of(language);
        let svg = plot::for_page(&plot.svg, title);
        let _ = writeln!(page, "<figure><figcaption>{title}</figcaption>{svg}</figure>");
    }
    page.push_str("</div>\n");
    let columns: Vec<_> = columns(experiment).iter().map(|column| (experiment, column)).collect();
    table(page, results, &columns, language);
    page.push_str("</section>\n");
}

/// Writes a table with a row for each engine. On a narrow screen the style sheet makes each row a
/// block, in which every figure has its title (`data-title`).
fn table(
    page: &mut String,
    results: &Results,
    columns: &[(Experiment, &Column)],
    language: Language,
) {
    page.push_str("<div class=\"table\"><table><thead><tr><td></td>");
    for (_, column) in columns {
        let _ = write!(page, "<th>{}</th>", column.title.of(language));
    }
    page.push_str("</tr></thead><tbody>\n");
    for engine in &results.engines {
        let _ = write!(page, "<tr><th>{}{}</th>", swatch(*engine), engine.name());
        for (experiment, column) in columns {
            let title = column.title.of(language);
            let cell = column.cell(results, *experiment, *engine, language);
            let _ = write!(page, "<td data-title=\"{title}\">{cell}</td>");
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody></table></div>\n");
}

/// Returns a square in the engine's colour.
fn swatch(engine: Engine) -> String {
    format!("<i style=\"background:var(--{})\"></i>", plot::variable(engine))
}

fn engines(page: &mut String, results: &Results, language: Language) {
    let heading = Text {
        en: "The engines, and how to check the figures",
        zh: "各个引擎，以及如何核对数字",
    };
    let _ = writeln!(page, "<section>\n<h2>{}</h2>\n<dl>", heading.of(language));
    for engine in &results.engines {
        let about = words::engine(*engine).of(language);
        let _ = writeln!(page, "<dt>{}{}</dt><dd>{about}</dd>", swatch(*engine), engine.name());
    }
    let _ = writeln!(page, "</dl>\n<p>{}</p>\n</section>", words::CHECK.of(language));
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::engine::Engine;
    use crate::lab::results::{Failure, Sample};

    fn results() -> Results {
        let sample = |clients| Sample {
            experiment: Experiment::Event,
            engine: Engine::Wake,
            run: 1,
            clients,
            rate: 50,
            noise: 0.0,
            figures: vec![("cpu_us", 12.5), ("p50_ms", 1.0)],
        };
        Results {
            engines: vec![Engine::Wake],
            asked: Experiment::ALL.to_vec(),
            clients: 20,
            samples: vec![sample(10), sample(20)],
            failures: vec![Failure {
                experiment: Experiment::Idle,
                engine: Engine::Wake,
                run: 1,
                why: "<killed>".into(),
            }],
            ..Results::default()
        }
    }

    #[test]
    fn report_page_loads_nothing_and_has_both_languages() {
        let page = html(&results());
        for foreign in ["<script", "<link", "<img", "url(", "@import", "src="] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        let addresses = page.matches("http").count();
        assert_eq!(addresses, page.matches("http://www.w3.org/2000/svg").count());
        assert!(page.contains("What does an event cost?") && page.contains("一个事件的开销是多少"));
        for dark in ["color-scheme: light dark", "var(--wake)", "id=\"dark\""] {
            assert!(page.contains(dark), "{dark}");
        }
        assert!(page.contains("12.50") && page.contains("<svg") && page.contains("&lt;killed&gt;"));
        assert!(!page.contains("NaN") && !page.contains("What does an idle client cost?"));
    }

    #[test]
    fn report_page_answers_before_it_explains() {
        let sample = |engine, experiment, figures| Sample {
            experiment,
            engine,
            run: 1,
            clients: 1_000,
            rate: 50,
            noise: 0.0,
            figures,
        };
        let samples = [(Engine::Direct, 36.0), (Engine::Wake, 97.0), (Engine::Node, 61.0)];
        let samples = samples.into_iter().flat_map(|(engine, mb)| {
            let memory = vec![("memory_bytes", mb * 1024.0 * 1024.0)];
            let silence = vec![("disk_silence_ms", mb)];
            [sample(engine, Experiment::Idle, memory), sample(engine, Experiment::Slow, silence)]
        });
        let page = html(&Results {
            engines: vec![Engine::Direct, Engine::Wake, Engine::Node],
            asked: Experiment::ALL.to_vec(),
            clients: 1_000,
            samples: samples.collect(),
            ..Results::default()
        });
        let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("no {text} in {page}"));
        let headline = "1,000 clients take 97 MB, or 36 MB if their threads do not send; \
                        with one thread for all (node), 61 MB.";
        let (answer, table) = (at(headline), at("<table>"));
        assert!(at("The tutorials say:") < answer && at("<h1>") < answer && answer < table);
        assert!(table < at("measured once") && table < at("<section>"));
    }
}
