//! The plots of the report, as SVG.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use sse_load::figures::{digits, float};

use super::words::{Language, SATURATED, Text};
use crate::lab::engine::Engine;
use crate::lab::experiment::Experiment;
use crate::lab::results::{QUANTILES, Results, USUAL_RATE};

/// The width of a plot in pixels. It is small enough that the text stays readable when a phone shows
/// the whole plot.
const WIDTH: u32 = 400;
const CURVES_HEIGHT: u32 = 330;
const LETTERS: (&str, i32) = ("sans-serif", 14);

/// Of a plot with bars: the height of a line of text, and the room for an engine's name and for a
/// value, in pixels.
const LINE: i32 = 21;
const NAME: i32 = 108;
const VALUE: i32 = 96;

/// With fewer points than this, a line would only claim what is between the points. Bars show them.
const LINE_POINTS: usize = 3;

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
                svg: figures(results, experiment, language, &PARTS),
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
            svg: figures(results, experiment, language, &SILENCE),
        }],
        Experiment::Stuck => vec![Plot {
            name: "stuck",
            title: Text {
                en: "Where the events for the client that does not read are held",
                zh: "客户端不读取时，它的事件存放在哪里",
            },
            svg: figures(results, experiment, language, &HELD_BACK),
        }],
        Experiment::Capacity => vec![Plot {
            name: "capacity",
            title: Text {
                en: "Clients with 200 descriptors (Apache: 32 workers): predicted and held",
                zh: "200 个描述符（Apache：32 个工作进程或线程）时的客户端数：预测与实际容纳",
            },
            svg: figures(results, experiment, language, &CLIENTS),
        }],
    }
}

/// A colour on a light page and on a dark one, as in the page's style sheet.
type Colours = [RGBColor; 2];

const CLOTH: Colours = [RGBColor(0xf7, 0xf7, 0xf3), RGBColor(0x12, 0x16, 0x1c)];
const INK: Colours = [RGBColor(0x18, 0x20, 0x2a), RGBColor(0xe8, 0xe9, 0xe3)];

/// Returns an engine's colours, from a palette that colour-blind readers can distinguish.
const fn colours(engine: Engine) -> Colours {
    match engine {
        Engine::Direct => [RGBColor(0x00, 0x72, 0xb2), RGBColor(0x58, 0xab, 0xe6)],
        Engine::Wake => [RGBColor(0xd5, 0x5e, 0x00), RGBColor(0xff, 0x8f, 0x4a)],
        Engine::TinyHttp => [RGBColor(0xb0, 0x56, 0x8a), RGBColor(0xe3, 0xa3, 0xc6)],
        Engine::EventLoop => [RGBColor(0x00, 0x81, 0x5e), RGBColor(0x34, 0xc7, 0x9c)],
        Engine::Node => [RGBColor(0x9a, 0x6f, 0x00), RGBColor(0xe0, 0xb6, 0x4a)],
        Engine::ApachePrefork => INK,
        Engine::ApacheEvent => [RGBColor(0x2f, 0x8d, 0xc0), RGBColor(0x9b, 0xd3, 0xf7)],
    }
}

/// Returns the colour in which an engine is drawn. [`for_page`] and [`for_file`] add the dark one.
const fn colour(engine: Engine) -> RGBColor {
    colours(engine)[0]
}

/// Returns the name of the engine's colour in the page's style sheet.
pub(super) fn variable(engine: Engine) -> &'static str {
    engine.name().trim_end_matches("-http") // a page that loads nothing contains no "http"
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
    axis("rss", KB, "RSS, KB", "RSS，KB"),
    axis("kernel_stack", KB, "kernel stack, KB", "内核栈，KB"),
    axis("kernel", KB, "kernel total, KB", "内核合计，KB"),
    axis("client_bytes", KB, "RSS + kernel, KB", "RSS + 内核，KB"),
];
const SILENCE: [Axis; 3] = [
    axis("calm_silence_ms", 1.0, "nothing slow, ms", "平时，ms"),
    axis("disk_silence_ms", 1.0, "disk read, ms", "读盘，ms"),
    axis("cpu_silence_ms", 1.0, "computation, ms", "计算，ms"),
];
const HELD_BACK: [Axis; 3] = [
    axis("offered_bytes", MB, "sent to it, MB", "发给它，MB"),
    axis("queue_bytes", MB, "in the kernel, MB", "在内核中，MB"),
    axis("grown_bytes", MB, "in the process, MB", "在进程中，MB"),
];
const CLIENTS: [Axis; 2] =
    [axis("predicted", 1.0, "predicted", "预测"), axis("held", 1.0, "held", "实际容纳")];

/// Draws a plot and returns its SVG. If drawing fails, the SVG contains what was drawn before the
/// error.
fn drawn(height: u32, draw: impl FnOnce(&Area<'_>) -> Drawn) -> String {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        let outcome = area.fill(&CLOTH[0]).map_err(Into::into).and_then(|()| draw(&area));
        if let Err(error) = outcome.and_then(|()| Ok(area.present()?)) {
            log::warn!("plot is incomplete: {error}");
        }
    }
    svg.replace("font-family=\"sans-serif\"", "font-family=\"system-ui, sans-serif\"")
}

/// Returns a colour as the SVG writes it.
fn written(RGBColor(red, green, blue): RGBColor) -> String {
    format!("\"#{red:02X}{green:02X}{blue:02X}\"")
}

/// Returns a plot's SVG for the page, which has light and dark colours, and sets the size.
pub(super) fn for_page(svg: &str, title: &str) -> String {
    let begin = format!("<svg role=\"img\" aria-label=\"{title}\" ");
    let mut svg = begin + svg[svg.find("viewBox").unwrap_or_default()..].trim_start();
    svg = svg.replacen(&written(CLOTH[0]), "\"none\"", 1); // the background
    svg = svg.replace(&written(INK[0]), "\"currentColor\"");
    for engine in Engine::ALL {
        svg = svg.replace(&written(colour(engine)), &format!("\"var(--{})\"", variable(engine)));
    }
    svg
}

/// Returns a plot's SVG for a file, which is dark where the reader prefers that.
///
/// The light colours are attributes, because some programs that show SVG ignore style sheets.
pub(super) fn for_file(svg: &str) -> String {
    let mut style = String::from("<style>@media (prefers-color-scheme: dark) {");
    let engines = Engine::ALL.into_iter().map(colours);
    for [light, dark] in [CLOTH, INK].into_iter().chain(engines) {
        for property in ["fill", "stroke"] {
            let (light, dark) = (written(light), written(dark));
            let rule =
                format!(" [{property}={light}] {{ {property}: {} }}", dark.trim_matches('"'));
            if svg.contains(&format!("{property}={light}")) && !style.contains(&rule) {
                style += &rule;
            }
        }
    }
    let end = svg.find(">\n").map_or(0, |end| end + 2); // of the tag `svg`
    format!("{}{style} }}</style>\n{}", &svg[..end], &svg[end..])
}

/// A measured value, and whether the engine was saturated.
#[derive(Clone, Copy)]
struct Point {
    x: f64,
    y: f64,
    is_saturated: bool,
}

/// An engine, the points of its line, and what the legend says after the engine's name.
struct Line {
    engine: Engine,
    points: Vec<Point>,
    remark: Option<Text>,
}

fn engines(results: &Results, experiment: Experiment) -> Vec<Engine> {
    let has = |engine: &Engine| results.of(experiment, *engine).next().is_some();
    results.engines.iter().copied().filter(has).collect()
}

/// Returns an engine's values of a figure at some of its points.
fn points(
    results: &Results,
    (experiment, axis): &(Experiment, Axis),
    engine: Engine,
    x: impl Fn((usize, u32)) -> Option<f64>,
) -> Vec<Point> {
    let points = results.points(*experiment, engine).into_iter();
    let found = points.filter_map(|point| {
        let x = x(point)?;
        let y = results.at(*experiment, engine, point, axis.figure)?.median * axis.scale;
        let is_saturated = *experiment == Experiment::Event && results.is_saturated(engine, point);
        Some(Point { x, y, is_saturated })
    });
    found.collect()
}

fn against_clients(results: &Results, language: Language, figure: &(Experiment, Axis)) -> String {
    let all = figure.0 == Experiment::Idle;
    let x = |(clients, rate)| (all || rate == USUAL_RATE).then(|| float(clients as u64));
    let lines = engines(results, figure.0).into_iter().map(|engine| {
        let points = points(results, figure, engine, x);
        Line { engine, points, remark: None }
    });
    let x = Text { en: "clients", zh: "个客户端" };
    lines_or_bars(&lines.collect::<Vec<_>>(), language, x, figure.1.title)
}

fn against_rate(results: &Results, language: Language) -> String {
    let lines = engines(results, Experiment::Event).into_iter().map(|engine| {
        let all = results.points(Experiment::Event, engine);
        let most = all.last().map_or(0, |(clients, _)| *clients);
        let x = |(clients, rate)| (clients == most).then(|| f64::from(rate));
        Line { engine, points: points(results, &CPU, engine, x), remark: None }
    });
    let x = Text { en: "events a second", zh: "个事件每秒" };
    lines_or_bars(&lines.collect::<Vec<_>>(), language, x, CPU.1.title)
}

fn latency(results: &Results, language: Language) -> String {
    let lines = engines(results, Experiment::Latency).into_iter().map(|engine| {
        let points = QUANTILES.iter().filter_map(|(quantile, name)| {
            let late = results.shown(Experiment::Latency, engine, name)?.median;
            Some(Point { x: late, y: quantile * 100.0, is_saturated: false })
        });
        let remark = results.is_shown_saturated(engine).then_some(SATURATED);
        Line { engine, points: points.collect(), remark }
    });
    let y = Text { en: "% have arrived", zh: "已到达 %" };
    let lines: Vec<_> = lines.collect();
    drawn(CURVES_HEIGHT, |area| curves(area, &lines, language, "ms", y.of(language)))
}

/// Draws lines, or bars if the lines have too few points.
fn lines_or_bars(lines: &[Line], language: Language, x: Text, unit: Text) -> String {
    if lines.iter().all(|line| line.points.len() >= LINE_POINTS) {
        return drawn(CURVES_HEIGHT, |area| {
            curves(area, lines, language, x.of(language), unit.of(language))
        });
    }
    let mut places: Vec<f64> = lines.iter().flat_map(|line| &line.points).map(|it| it.x).collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    let groups = places.into_iter().map(|place| {
        let here = |line: &Line| {
            let point = line.points.iter().find(|point| point.x.total_cmp(&place).is_eq())?;
            Some(Bar { engine: line.engine, value: point.y, is_saturated: point.is_saturated })
        };
        let title = format!("{} {}, {}", digits(place, 0), x.of(language), unit.of(language));
        Group { title, bars: lines.iter().filter_map(here).collect() }
    });
    bars(&groups.collect::<Vec<_>>(), language)
}

/// Returns the end of an axis on which all values fit.
fn end(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, f64::max).max(1e-3) * 1.08
}

/// Draws the legend and returns the area below it.
fn below_key<'a>(
    area: &Area<'a>,
    lines: &[Line],
    language: Language,
) -> Result<Area<'a>, Box<dyn std::error::Error>> {
    let mut entries: Vec<(Option<Engine>, String)> = Vec::new();
    for Line { engine, remark, .. } in lines {
        let remark = remark.map_or_else(String::new, |it| format!(" ({})", it.of(language)));
        entries.push((Some(*engine), engine.name().to_owned() + &remark));
    }
    if lines.iter().flat_map(|line| &line.points).any(|point| point.is_saturated) {
        entries.push((None, SATURATED.of(language).to_owned()));
    }
    let mut places = Vec::new();
    let (mut x, mut y) = (14, 10);
    for (engine, name) in entries {
        let width = 34 + 8 * i32::try_from(name.chars().count())?;
        if x + width > i32::try_from(WIDTH)? {
            (x, y) = (14, y + 20); // the next row of the legend
        }
        places.push((engine, name, x, y));
        x += width;
    }
    let (key, area) = area.split_vertically(y + 20);
    for (engine, name, x, y) in places {
        match engine {
            Some(engine) => {
                let corners = [(x, y), (x + 12, y + 12)];
                key.draw(&Rectangle::new(corners, colour(engine).filled()))?;
            }
            None => key.draw(&Circle::new((x + 6, y + 6), 5, INK[0].stroke_width(2)))?,
        }
        key.draw_text(&name, &LETTERS.into_text_style(&key), (x + 17, y - 1))?;
    }
    Ok(area)
}

/// Draws lines with a dot for each point. The dot of a saturated engine is a larger ring.
fn curves(area: &Area<'_>, lines: &[Line], language: Language, x: &str, y: &str) -> Drawn {
    let area = below_key(area, lines, language)?;
    let points = || lines.iter().flat_map(|line| &line.points);
    let mut chart = ChartBuilder::on(&area)
        .margin(8)
        .margin_right(18)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..end(points().map(|it| it.x)), 0.0..end(points().map(|it| it.y)))?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(INK[0].mix(0.12))
        .axis_style(INK[0].mix(0.5))
        .label_style(LETTERS)
        .x_desc(x)
        .y_desc(y)
        .x_labels(5)
        .y_labels(6)
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&|value| short(*value))
        .draw()?;
    for Line { engine, points, .. } in lines {
        let colour = colour(*engine);
        let line = points.iter().map(|point| (point.x, point.y));
        chart.draw_series(LineSeries::new(line, colour.stroke_width(3)))?;
        chart.draw_series(points.iter().map(|point| {
            let (radius, style) =
                if point.is_saturated { (6, colour.stroke_width(2)) } else { (3, colour.filled()) };
            Circle::new((point.x, point.y), radius, style)
        }))?;
    }
    Ok(())
}

/// Formats a value for an axis: with one decimal if it is below 10.
fn short(value: f64) -> String {
    let small = value.abs() < 10.0 && value != 0.0;
    digits(value, usize::from(small))
}

/// An engine is an outlier if its longest bar is more than this many times the second-longest
/// engine's longest bar. The outlier's bars are cut off, because otherwise the other bars would be
/// too short to see. The label of a cut bar states the true value. Of two engines, neither is an outlier:
/// their difference is what the plot shows.
const OUTLIER: f64 = 5.0;

fn without_outlier(mut lengths: Vec<f64>) -> Vec<f64> {
    lengths.sort_by(f64::total_cmp);
    if let [_, .., next, last] = lengths[..]
        && last > next * OUTLIER
        && next > 0.0
    {
        lengths.pop();
    }
    lengths
}

/// A bar of a plot.
struct Bar {
    engine: Engine,
    value: f64,
    is_saturated: bool,
}

/// The bars of one figure, one for each engine, and their title.
struct Group {
    title: String,
    bars: Vec<Bar>,
}

/// Draws a figure for each group: its bars, one below the other.
fn figures(
    results: &Results,
    experiment: Experiment,
    language: Language,
    groups: &[Axis],
) -> String {
    let groups = groups.iter().map(|group| {
        let bars = engines(results, experiment).into_iter().map(|engine| {
            let found = results.shown(experiment, engine, group.figure);
            let value = found.map_or(0.0, |it| (it.median * group.scale).max(0.0));
            Bar { engine, value, is_saturated: false }
        });
        Group { title: group.title.of(language).to_owned(), bars: bars.collect() }
    });
    bars(&groups.collect::<Vec<_>>(), language)
}

fn bars(groups: &[Group], language: Language) -> String {
    let all = || groups.iter().flat_map(|group| &group.bars);
    let longest = |engine: &Engine| {
        all().filter(|bar| bar.engine == *engine).map(|bar| bar.value).fold(0.0, f64::max)
    };
    let shown: Vec<Engine> =
        Engine::ALL.into_iter().filter(|engine| all().any(|bar| bar.engine == *engine)).collect();
    let most = end(without_outlier(shown.iter().map(longest).collect()).into_iter());
    let lines = groups.iter().map(|group| group.bars.len() + 1).sum::<usize>();
    let height = u32::try_from(lines).unwrap_or(u32::MAX).saturating_mul(LINE.unsigned_abs());
    let room = f64::from(i32::try_from(WIDTH).unwrap_or(i32::MAX) - NAME - VALUE);
    drawn(height.saturating_add(12), |area| {
        let left = LETTERS.into_font().color(&INK[0]).pos(Pos::new(HPos::Left, VPos::Center));
        let bold = ("sans-serif", 14, FontStyle::Bold).into_font().color(&INK[0]);
        let bold = bold.pos(Pos::new(HPos::Left, VPos::Center));
        let right = left.pos(Pos::new(HPos::Right, VPos::Center));
        let mut middle = LINE / 2 + 4;
        for group in groups {
            area.draw_text(&group.title, &bold, (4, middle))?;
            middle += LINE;
            for Bar { engine, value, is_saturated } in &group.bars {
                area.draw_text(engine.name(), &right, (NAME - 8, middle))?;
                #[allow(clippy::cast_possible_truncation)] // at most WIDTH
                let end = NAME + (value.min(most) / most * room).round() as i32;
                let corners = [(NAME, middle - 7), (end.max(NAME + 1), middle + 7)];
                area.draw(&Rectangle::new(corners, colour(*engine).filled()))?;
                let cut = if *value > most { " →" } else { "" };
                let saturated = if *is_saturated {
                    format!(" {}", SATURATED.of(language))
                } else {
                    String::new()
                };
                let label = short(*value) + cut + &saturated;
                area.draw_text(&label, &left, (end + 6, middle))?;
                middle += LINE;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::results::Sample;

    /// Returns the results of an engine at three or fewer numbers of clients; with the most clients
    /// it uses this share of its core.
    fn results(clients: &[usize], busy: f64) -> Results {
        let most = clients.iter().copied().max().unwrap_or_default();
        let sample = |clients: &usize| Sample {
            experiment: Experiment::Event,
            engine: Engine::Node,
            run: 1,
            clients: *clients,
            rate: USUAL_RATE,
            noise: 0.0,
            figures: vec![("cpu_us", 7.5), ("busy", if *clients == most { busy } else { 0.1 })],
        };
        let samples = clients.iter().map(sample).collect();
        Results { engines: vec![Engine::Node], samples, ..Results::default() }
    }

    #[test]
    fn only_one_of_several_engines_is_an_outlier() {
        for (lengths, shown) in [
            (vec![1.0, 100.0], vec![1.0, 100.0]),
            (vec![100.0, 1.0, 2.0], vec![1.0, 2.0]),
            (vec![1.0, 9.0, 40.0], vec![1.0, 9.0, 40.0]),
        ] {
            assert_eq!(without_outlier(lengths), shown);
        }
    }

    #[test]
    fn two_points_are_bars_and_three_are_a_line() {
        let svg =
            |clients: &[usize]| against_clients(&results(clients, 0.1), Language::English, &CPU);
        let (two, three) = (svg(&[100, 1_000]), svg(&[100, 500, 1_000]));
        assert!(!two.contains("<polyline") && two.contains("1,000 clients, µs"), "{two}");
        assert!(three.contains("<polyline"), "{three}");
    }

    #[test]
    fn saturated_points_say_so() {
        for clients in [&[100, 1_000][..], &[100, 500, 1_000]] {
            let svg = |busy| against_clients(&results(clients, busy), Language::English, &CPU);
            assert!(!svg(0.9).contains("saturated") && svg(0.99).contains("saturated"));
        }
    }

    #[test]
    fn plot_for_the_page_has_no_colour_of_its_own() {
        let svg = against_clients(&results(&[100, 1_000], 0.1), Language::English, &CPU);
        let page = for_page(&svg, "a title");
        assert!(page.contains("var(--node)") && page.contains("aria-label=\"a title\""));
        let tag = page.split('>').next().expect("a tag");
        assert!(!page.contains("=\"#") && !tag.contains(" width="), "{page}");
    }

    #[test]
    fn plot_in_a_file_is_dark_for_readers_who_prefer_that() {
        let svg = against_clients(&results(&[100, 1_000], 0.1), Language::English, &CPU);
        let file = for_file(&svg);
        for [light, dark] in [CLOTH, INK, colours(Engine::Node)].map(|it| it.map(written)) {
            let rule = format!("[fill={light}] {{ fill: {} }}", dark.trim_matches('"'));
            assert_eq!(file.matches(&rule).count(), 1, "{file}");
        }
        assert!(!file.contains(&written(colour(Engine::Wake))), "a colour that it does not use");
        assert!(file.starts_with("<svg width=\"400\"") && file.contains("</style>\n<rect"));
    }

    /// The page has the same colours as variables.
    #[test]
    fn colours_are_those_of_the_style_sheet() {
        let style = include_str!("report.css");
        let own = Engine::ALL.into_iter().filter(|engine| *engine != Engine::ApachePrefork);
        let engines = own.map(|engine| (variable(engine), colours(engine)));
        for (name, colours) in [("cloth", CLOTH), ("ink", INK)].into_iter().chain(engines) {
            let [light, dark] = colours.map(|it| written(it).replace('"', "").to_lowercase());
            let variable = format!("--{name}: light-dark({light}, {dark});");
            assert!(style.contains(&variable), "{variable}");
        }
    }
}
