//! The plots of the report, as SVG.

use plotters::coord::Shift;
use plotters::element::Text as Label;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use sse_load::figures::{digits, float};

use super::words::{Language, Text};
use crate::lab::engine::Engine;
use crate::lab::experiment::{Experiment, QUANTILES};
use crate::lab::results::{Results, USUAL_RATE};

/// The size of a plot in pixels. It is small enough that the text stays readable when a phone shows
/// the whole plot.
const SIZE: (u32, u32) = (560, 380);
const LETTERS: (&str, i32) = ("sans-serif", 14);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// A plot and the name of its file.
#[derive(Debug)]
pub(super) struct Plot {
    pub(crate) name: &'static str,
    pub(crate) title: Text,
    pub(crate) svg: String,
}

/// Returns the plots of an experiment.
pub(super) fn plots(results: &Results, experiment: Experiment, language: Language) -> Vec<Plot> {
    match experiment {
        Experiment::Idle => vec![
            Plot {
                name: "idle-memory",
                title: Text {
                    en: "Memory of the process, and of the kernel for it",
                    zh: "进程的内存，以及内核为它占用的内存",
                },
                svg: against_clients(results, language, &MEMORY),
            },
            Plot {
                name: "idle-client",
                title: Text {
                    en: "Memory of one client, part by part",
                    zh: "一个客户端占用的内存，按部分",
                },
                svg: bars(results, experiment, language, &PARTS),
            },
        ],
        Experiment::Event => vec![
            Plot {
                name: "event-cpu",
                title: Text {
                    en: "CPU time for one event to one client, at 50 events/s",
                    zh: "一个事件发给一个客户端的 CPU 时间，每秒 50 个事件",
                },
                svg: against_clients(results, language, &CPU),
            },
            Plot {
                name: "event-rate",
                title: Text {
                    en: "CPU time for one event with the most clients, by event rate",
                    zh: "客户端最多时一个事件的 CPU 时间，随事件频率变化",
                },
                svg: against_rate(results, language),
            },
        ],
        Experiment::Latency => vec![Plot {
            name: "latency",
            title: Text {
                en: "Latency: the share of events that has arrived by then",
                zh: "延迟：到这时已到达的事件比例",
            },
            svg: latency(results, language),
        }],
        Experiment::Slow => vec![Plot {
            name: "slow",
            title: Text {
                en: "The longest time without an event for another client (one is due every 10 ms)",
                zh: "另一个客户端收不到事件的最长时间（每 10 ms 应有一个）",
            },
            svg: bars(results, experiment, language, &SILENCE),
        }],
        Experiment::Stuck => vec![Plot {
            name: "stuck",
            title: Text {
                en: "Where the events for the client that does not read are held",
                zh: "客户端不读取时，它的事件存放在哪里",
            },
            svg: bars(results, experiment, language, &HELD_BACK),
        }],
        Experiment::Capacity => vec![Plot {
            name: "capacity",
            title: Text {
                en: "Clients with 200 descriptors (Apache: 32 workers): predicted and held",
                zh: "200 个描述符（Apache：32 个工作进程或线程）时的客户端数：预测与实际容纳",
            },
            svg: bars(results, experiment, language, &CLIENTS),
        }],
    }
}

/// Returns an engine's colour, from a palette that colour-blind readers can distinguish.
pub(super) fn colour(engine: Engine) -> RGBColor {
    match engine {
        Engine::Direct => RGBColor(0, 114, 178),
        Engine::Wake => RGBColor(213, 94, 0),
        Engine::TinyHttp => RGBColor(204, 121, 167),
        Engine::EventLoop => RGBColor(0, 158, 115),
        Engine::Node => RGBColor(184, 134, 11),
        Engine::ApachePrefork => RGBColor(0, 0, 0),
        Engine::ApacheEvent => RGBColor(86, 180, 233),
    }
}

/// A figure that a plot shows, and the factor that converts the figure to the unit in the plot's
/// title.
struct Axis {
    figure: &'static str,
    scale: f64,
    title: Text,
}

const MB: f64 = 1.0 / 1024.0 / 1024.0;
const KB: f64 = 1.0 / 1024.0;

const fn axis(figure: &'static str, scale: f64, en: &'static str, zh: &'static str) -> Axis {
    Axis { figure, scale, title: Text { en, zh } }
}

const MEMORY: (Experiment, Axis) = (Experiment::Idle, axis("memory_bytes", MB, "MB", "MB"));
const CPU: (Experiment, Axis) = (Experiment::Event, axis("cpu_us", 1.0, "µs", "µs"));
const PARTS: [Axis; 4] = [
    axis("rss", KB, "RSS, KB", "RSS KB"),
    axis("kernel_stack", KB, "kernel stack", "内核栈"),
    axis("kernel", KB, "kernel total", "内核合计"),
    axis("client_bytes", KB, "RSS + kernel", "RSS + 内核"),
];
const SILENCE: [Axis; 3] = [
    axis("calm_silence_ms", 1.0, "nothing slow, ms", "平时 ms"),
    axis("disk_silence_ms", 1.0, "disk read", "读盘"),
    axis("cpu_silence_ms", 1.0, "computation", "计算"),
];
const HELD_BACK: [Axis; 3] = [
    axis("offered_bytes", MB, "sent to it, MB", "发给它 MB"),
    axis("queue_bytes", MB, "in the kernel", "在内核中"),
    axis("grown_bytes", MB, "in the process", "在进程中"),
];
const CLIENTS: [Axis; 2] =
    [axis("predicted", 1.0, "predicted", "预测"), axis("held", 1.0, "held", "实际容纳")];

/// Draws a plot and returns its SVG. If drawing fails, the SVG contains what was drawn before the
/// error.
fn drawn(draw: impl FnOnce(&Area<'_>) -> Drawn) -> String {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let outcome = area.fill(&WHITE).map_err(Into::into).and_then(|()| draw(&area));
        if let Err(error) = outcome.and_then(|()| Ok(area.present()?)) {
            log::warn!("plot is incomplete: {error}");
        }
    }
    // The SVG must have no fixed size, so that the plot scales with the page.
    svg.replacen(&format!("width=\"{}\" height=\"{}\" ", SIZE.0, SIZE.1), "", 1)
}

/// An engine, and the points of its line.
type Line = (Engine, Vec<(f64, f64)>);

fn lines_of(
    results: &Results,
    experiment: Experiment,
    mut line: impl FnMut(Engine) -> Vec<(f64, f64)>,
) -> Vec<Line> {
    let has = |engine: &Engine| results.of(experiment, *engine).next().is_some();
    let engines = results.engines.iter().copied().filter(has);
    engines.map(|engine| (engine, line(engine))).collect()
}

fn against_clients(
    results: &Results,
    language: Language,
    (experiment, axis): &(Experiment, Axis),
) -> String {
    let lines = lines_of(results, *experiment, |engine| {
        let points = results.points(*experiment, engine).into_iter();
        let usual =
            points.filter(|(_, rate)| *experiment == Experiment::Idle || *rate == USUAL_RATE);
        let found = usual.filter_map(|point| {
            let found = results.at(*experiment, engine, point, axis.figure)?;
            Some((float(point.0 as u64), found.median * axis.scale))
        });
        found.collect()
    });
    let x = Text { en: "clients", zh: "客户端数" };
    drawn(|area| curves(area, &lines, x.of(language), axis.title.of(language)))
}

fn against_rate(results: &Results, language: Language) -> String {
    let lines = lines_of(results, Experiment::Event, |engine| {
        let points = results.points(Experiment::Event, engine);
        let most = points.last().map_or(0, |(clients, _)| *clients);
        let found = points.into_iter().filter(|(clients, _)| *clients == most);
        let found = found.filter_map(|point| {
            let found = results.at(Experiment::Event, engine, point, "cpu_us")?;
            Some((f64::from(point.1), found.median))
        });
        found.collect()
    });
    let x = Text { en: "events a second", zh: "每秒事件数" };
    drawn(|area| curves(area, &lines, x.of(language), "µs"))
}

fn latency(results: &Results, language: Language) -> String {
    let lines = lines_of(results, Experiment::Latency, |engine| {
        let found = QUANTILES.iter().filter_map(|(quantile, name)| {
            let late = results.shown(Experiment::Latency, engine, name)?.median;
            Some((late, quantile * 100.0))
        });
        found.collect()
    });
    let y = Text { en: "% have arrived", zh: "已到达 %" };
    drawn(|area| curves(area, &lines, "ms", y.of(language)))
}

/// Returns the end of an axis on which all values fit.
fn end(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, f64::max).max(1e-3) * 1.08
}

/// Draws the legend and returns the area below it.
fn below_key<'a>(
    area: &Area<'a>,
    engines: impl Iterator<Item = Engine>,
) -> Result<Area<'a>, Box<dyn std::error::Error>> {
    let mut places = Vec::new();
    let (mut x, mut y) = (58, 12);
    for engine in engines {
        let width = 34 + 8 * i32::try_from(engine.name().len())?;
        if x + width > i32::try_from(SIZE.0)? {
            (x, y) = (58, y + 20); // the next row of the legend
        }
        places.push((engine, x, y));
        x += width;
    }
    let (key, area) = area.split_vertically(y + 18);
    for (engine, x, y) in places {
        key.draw(&Rectangle::new([(x, y), (x + 12, y + 12)], colour(engine).filled()))?;
        key.draw_text(engine.name(), &LETTERS.into_text_style(&key), (x + 17, y - 1))?;
    }
    Ok(area)
}

fn curves(area: &Area<'_>, lines: &[Line], x: &str, y: &str) -> Drawn {
    let area = below_key(area, lines.iter().map(|line| line.0))?;
    let points = || lines.iter().flat_map(|(_, line)| line);
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .margin_right(20)
        .x_label_area_size(44)
        .y_label_area_size(58)
        .build_cartesian_2d(0.0..end(points().map(|it| it.0)), 0.0..end(points().map(|it| it.1)))?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .axis_style(BLACK.mix(0.5))
        .label_style(LETTERS)
        .x_desc(x)
        .y_desc(y)
        .x_labels(6)
        .y_labels(6)
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&|value| short(*value))
        .draw()?;
    for (engine, line) in lines {
        let colour = colour(*engine);
        chart.draw_series(LineSeries::new(line.iter().copied(), colour.stroke_width(3)))?;
        chart.draw_series(line.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
    }
    Ok(())
}

/// Formats a value for an axis: with one decimal if it is below 10.
fn short(value: f64) -> String {
    let small = value.abs() < 10.0 && value != 0.0;
    digits(value, usize::from(small))
}

/// An engine is an outlier if its highest bar is more than this many times the second-highest
/// engine's highest bar. The outlier's bars are cut off, because otherwise the other bars would be
/// too low to see. The label of a cut bar states the true value.
const OUTLIER: f64 = 5.0;

fn without_outlier(mut heights: Vec<f64>) -> Vec<f64> {
    heights.sort_by(f64::total_cmp);
    if let [.., next, last] = heights[..]
        && last > next * OUTLIER
        && next > 0.0
    {
        heights.pop();
    }
    heights
}

/// Draws bars: for each figure, one bar for each engine, side by side.
fn bars(results: &Results, experiment: Experiment, language: Language, groups: &[Axis]) -> String {
    let engines: Vec<Engine> =
        lines_of(results, experiment, |_| Vec::new()).into_iter().map(|line| line.0).collect();
    let value = |group: &Axis, engine| {
        let found = results.shown(experiment, engine, group.figure);
        found.map_or(0.0, |it| (it.median * group.scale).max(0.0))
    };
    let tallest = |engine: &Engine| {
        let heights = groups.iter().map(|group| value(group, *engine));
        heights.fold(0.0, f64::max)
    };
    drawn(|area| {
        let area = below_key(area, engines.iter().copied())?;
        let most = end(without_outlier(engines.iter().map(tallest).collect()).into_iter());
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(52)
            .build_cartesian_2d(0.0..float(groups.len() as u64), 0.0..most)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .disable_x_axis()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.12))
            .axis_style(BLACK.mix(0.5))
            .label_style(LETTERS)
            .y_labels(6)
            .y_label_formatter(&|value| short(*value))
            .draw()?;
        let middle = LETTERS.into_font().color(&BLACK).pos(Pos::new(HPos::Center, VPos::Top));
        let width = 0.84 / float(engines.len().max(1) as u64);
        for (place, group) in groups.iter().enumerate() {
            let left = float(place as u64) + 0.08;
            for (index, engine) in engines.iter().enumerate() {
                let (from, height) = (left + width * float(index as u64), value(group, *engine));
                let shown = height.min(most * 0.94);
                let corners = [(from, 0.0), (from + width * 0.92, shown)];
                chart.draw_series([Rectangle::new(corners, colour(*engine).filled())])?;
                let above = (from + width * 0.46, shown);
                let label = ("sans-serif", 11).into_font().color(&BLACK);
                let label = label.pos(Pos::new(HPos::Center, VPos::Bottom));
                let cut = if shown < height { "↑" } else { "" };
                chart.draw_series([Label::new(short(height) + cut, above, label)])?;
            }
            let below = (float(place as u64) + 0.5, -0.03 * most);
            let title = group.title.of(language).to_owned();
            chart.draw_series([Label::new(title, below, middle.clone())])?;
        }
        Ok(())
    })
}
