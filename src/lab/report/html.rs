//! The report as one HTML page in English and Chinese. A switch in plain CSS selects the language.
//!
//! The page has no script and loads nothing: no font, no picture, no style sheet.

use std::fmt::Write as _;

use plotters::style::RGBColor;

use super::columns::columns;
use super::plot::{self, plots};
use super::words::{self, Language, Text};
use crate::lab::experiment::Experiment;
use crate::lab::results::Results;

const STYLE: &str = include_str!("report.css");

/// Returns the report as an HTML page.
pub(super) fn html(results: &Results) -> String {
    let mut page = String::from(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>threadcast lab</title>\n<style>\n",
    );
    page += STYLE;
    page += "</style>\n</head>\n<body>\n<nav>\
             <label><input type=\"radio\" name=\"language\" id=\"en\" checked> English</label>\
             <label><input type=\"radio\" name=\"language\" id=\"zh\"> 中文</label></nav>\n";
    for language in Language::ALL {
        let tag = language.tag();
        let _ = writeln!(page, "<main class=\"{tag}\" lang=\"{tag}\">");
        body(&mut page, results, language);
        page += "</main>\n";
    }
    page + "</body>\n</html>\n"
}

fn body(page: &mut String, results: &Results, language: Language) {
    let title = Text {
        en: "What one thread for each connection costs on this machine",
        zh: "在这台机器上，每个连接一个线程的开销",
    };
    let _ = writeln!(page, "<h1>{}</h1>", title.of(language));
    let machine = results.machine.iter().map(|(name, it)| format!("{name}: {it}"));
    let machine: Vec<_> = machine.collect();
    let _ = writeln!(page, "<p class=\"machine\">{}</p>", escape(&machine.join(" · ")));
    page.push_str("<p class=\"key\">");
    for engine in &results.engines {
        let RGBColor(red, green, blue) = plot::colour(*engine);
        let _ = write!(
            page,
            "<span><i style=\"background:rgb({red},{green},{blue})\"></i>{}</span>",
            engine.name()
        );
    }
    page.push_str("</p>\n");
    let notes = words::notes(results, language);
    if !notes.is_empty() {
        page.push_str("<ul class=\"notes\">");
        for note in notes {
            let _ = write!(page, "<li>{}</li>", escape(&note));
        }
        page.push_str("</ul>\n");
    }
    for experiment in results.experiments() {
        section(page, results, experiment, language);
    }
    engines(page, results, language);
    let heading = Text {
        en: "The articles' sentence, with this machine's figures",
        zh: "用本机的数字重写文章里的那句话",
    };
    let _ = writeln!(page, "<h2>{}</h2>", heading.of(language));
    let _ = writeln!(page, "<blockquote>{}</blockquote>", words::SENTENCE.of(language));
    let _ =
        writeln!(page, "<p class=\"sentence\">{}</p>", escape(&words::sentence(results, language)));
}

fn section(page: &mut String, results: &Results, experiment: Experiment, language: Language) {
    let expected = Text { en: "Expected:", zh: "预测：" }.of(language);
    let _ = writeln!(page, "<section>\n<h2>{}</h2>", words::question(experiment).of(language));
    let prediction = words::prediction(experiment).of(language);
    let _ = writeln!(page, "<p class=\"expected\"><b>{expected}</b> {prediction}</p>");
    let _ = writeln!(page, "<p>{}</p>", escape(&words::meaning(results, experiment, language)));
    page.push_str("<div class=\"plots\">\n");
    for plot in plots(results, experiment, language) {
        let title = plot.title.of(language);
        let _ = writeln!(page, "<figure><figcaption>{title}</figcaption>{}</figure>", plot.svg);
    }
    page.push_str("</div>\n<div class=\"table\"><table><thead><tr><th></th>");
    for column in columns(experiment) {
        let _ = write!(page, "<th>{}</th>", column.title.of(language));
    }
    page.push_str("</tr></thead><tbody>\n");
    for engine in &results.engines {
        let _ = write!(page, "<tr><th>{}</th>", engine.name());
        for column in columns(experiment) {
            let _ = write!(page, "<td>{}</td>", column.cell(results, experiment, *engine));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody></table></div>\n</section>\n");
}

fn engines(page: &mut String, results: &Results, language: Language) {
    let heading = Text {
        en: "The engines, and how to check the figures",
        zh: "各个引擎，以及如何核对数字",
    };
    let _ = writeln!(page, "<section>\n<h2>{}</h2>\n<dl>", heading.of(language));
    for engine in &results.engines {
        let about = words::engine(*engine).of(language);
        let _ = writeln!(page, "<dt>{}</dt><dd>{about}</dd>", engine.name());
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
        assert!(page.contains("12.50") && page.contains("<svg") && page.contains("&lt;killed&gt;"));
        assert!(!page.contains("NaN") && !page.contains("What does an idle client cost?"));
    }
}
