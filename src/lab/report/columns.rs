//! The columns of each table: the figures, their units and their titles.

use sse_load::figures::digits;

use super::words::{Language, SATURATED, Text};
use crate::lab::engine::Engine;
use crate::lab::experiment::Experiment;
use crate::lab::results::{Results, Summary};

/// A column of a table.
#[derive(Debug)]
pub(super) struct Column {
    pub(crate) title: Text,
    /// The name of the figure in the samples.
    pub(crate) figure: &'static str,
    /// The factor by which a figure is multiplied to convert it to the unit in the title.
    scale: f64,
    digits: usize,
}

const KB: f64 = 1.0 / 1024.0;
const MB: f64 = KB / 1024.0;

const fn column(
    figure: &'static str,
    scale: f64,
    digits: usize,
    en: &'static str,
    zh: &'static str,
) -> Column {
    Column { title: Text { en, zh }, figure, scale, digits }
}

/// The columns of the table that answers first, each with its experiment.
pub(super) const ANSWER: [(Experiment, Column); 4] = [
    (Experiment::Idle, column("memory_bytes", MB, 1, "memory, MB", "内存 MB")),
    (Experiment::Event, column("cpu_us", 1.0, 1, "CPU of an event, µs", "每事件 CPU µs")),
    (Experiment::Latency, column("p99_ms", 1.0, 1, "99 % arrive within, ms", "99 % 到达时间 ms")),
    (
        Experiment::Slow,
        column("disk_silence_ms", 1.0, 0, "silence during a disk read, ms", "读盘时的静默 ms"),
    ),
];

/// Returns the columns of an experiment's table.
pub(super) fn columns(experiment: Experiment) -> &'static [Column] {
    match experiment {
        Experiment::Idle => {
            const {
                &[
                    column("threads", 1.0, 0, "threads", "线程数"),
                    column("memory_bytes", MB, 1, "with all clients, MB", "含全部客户端 MB"),
                    column("base_bytes", MB, 1, "without clients, MB", "无客户端 MB"),
                    column("rss", KB, 1, "RSS KB/client", "RSS KB/客户端"),
                    column("kernel_stack", KB, 1, "kernel stack KB", "内核栈 KB"),
                    column("slab", KB, 1, "slab KB", "slab KB"),
                    column("kernel", KB, 1, "kernel total KB", "内核合计 KB"),
                    column("client_bytes", KB, 1, "RSS + kernel KB", "RSS + 内核 KB"),
                    column("whole", KB, 1, "by MemAvailable KB", "按 MemAvailable KB"),
                ]
            }
        }
        Experiment::Event => {
            const {
                &[
                    column("cpu_us", 1.0, 2, "µs CPU/event", "每事件 CPU µs"),
                    column("voluntary", 1.0, 3, "voluntary switches/event", "每事件自愿切换次数"),
                    column(
                        "involuntary",
                        1.0,
                        3,
                        "involuntary switches/event",
                        "每事件非自愿切换次数",
                    ),
                    column("delivered", 1.0, 0, "delivered/s", "每秒送达数"),
                    column("busy", 100.0, 0, "core busy %", "核占用 %"),
                ]
            }
        }
        Experiment::Latency => {
            const {
                &[
                    column("p50_ms", 1.0, 2, "median ms", "中位数 ms"),
                    column("p90_ms", 1.0, 2, "90 % ms", "90 % ms"),
                    column("p99_ms", 1.0, 2, "99 % ms", "99 % ms"),
                    column("p99.9_ms", 1.0, 2, "99.9 % ms", "99.9 % ms"),
                    column("p100_ms", 1.0, 2, "maximum ms", "最大 ms"),
                ]
            }
        }
        Experiment::Slow => {
            const {
                &[
                    column("calm_silence_ms", 1.0, 1, "silence ms: nothing slow", "静默 ms：平时"),
                    column("disk_silence_ms", 1.0, 1, "silence ms: disk read", "静默 ms：读盘"),
                    column("cpu_silence_ms", 1.0, 1, "silence ms: computation", "静默 ms：计算"),
                    column("cpu_p50_ms", 1.0, 1, "median latency then, ms", "此时延迟中位数 ms"),
                ]
            }
        }
        Experiment::Stuck => {
            const {
                &[
                    column("offered_bytes", MB, 0, "sent to it, MB", "发给它 MB"),
                    column("queue_bytes", MB, 1, "unsent in the kernel, MB", "内核中未发送 MB"),
                    column("grown_bytes", MB, 1, "growth of the engine, MB", "引擎增长 MB"),
                    column(
                        "calm_p99_ms",
                        1.0,
                        1,
                        "others before, 99 % ms",
                        "其他客户端，之前 99 % ms",
                    ),
                    column("p99_ms", 1.0, 1, "others with it, 99 % ms", "其他客户端，期间 99 % ms"),
                    column("cut", 100.0, 0, "disconnected %", "已断开 %"),
                ]
            }
        }
        Experiment::Capacity => {
            const {
                &[
                    column("descriptors", 1.0, 0, "descriptors", "描述符"),
                    column("predicted", 1.0, 0, "predicted clients", "预测客户端数"),
                    column("held", 1.0, 0, "held", "实际容纳"),
                    column("told", 100.0, 0, "others rejected at once %", "其余立即被拒绝 %"),
                    column(
                        "served_on",
                        100.0,
                        0,
                        "held and still served %",
                        "已容纳的仍收到事件 %",
                    ),
                    column(
                        "come_back",
                        100.0,
                        0,
                        "new clients served after disconnects %",
                        "断开一些后新客户端得到服务 %",
                    ),
                ]
            }
        }
    }
}

impl Column {
    /// Returns the text of an engine's cell in this column. The text is a dash if the figure was
    /// not measured. The share of a busy core says that the engine was saturated.
    pub(super) fn cell(
        &self,
        results: &Results,
        experiment: Experiment,
        engine: Engine,
        language: Language,
    ) -> String {
        let found = results.shown(experiment, engine, self.figure);
        found.map_or("–".into(), |Summary { median, least, most, count }| {
            let show = |value: f64| digits(value * self.scale, self.digits);
            let (low, high) = (show(least), show(most));
            let spread =
                if count < 2 || low == high { String::new() } else { format!(" ({low}–{high})") };
            let saturated = self.figure == "busy" && results.is_shown_saturated(engine);
            let saturated =
                if saturated { format!(", {}", SATURATED.of(language)) } else { String::new() };
            show(median) + &spread + &saturated
        })
    }
}
