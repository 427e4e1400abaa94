//! The texts of the report, in English and Chinese.

use sse_load::figures::{digits, float};

use crate::lab::engine::Engine;
use crate::lab::experiment::Experiment;
use crate::lab::results::{Noise, Results};

/// A language of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    English,
    Chinese,
}

impl Language {
    pub(super) const ALL: [Self; 2] = [Self::English, Self::Chinese];

    /// Returns the language's tag for HTML.
    pub(super) fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Chinese => "zh",
        }
    }
}

/// A text in both languages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Text {
    pub(crate) en: &'static str,
    pub(crate) zh: &'static str,
}

impl Text {
    pub(super) fn of(self, language: Language) -> &'static str {
        match language {
            Language::English => self.en,
            Language::Chinese => self.zh,
        }
    }
}

/// Returns the question that an experiment answers.
pub(super) fn question(experiment: Experiment) -> Text {
    match experiment {
        Experiment::Idle => Text {
            en: "What does an idle client cost?",
            zh: "一个空闲客户端的开销是多少？",
        },
        Experiment::Event => {
            Text { en: "What does an event cost?", zh: "一个事件的开销是多少？" }
        }
        Experiment::Latency => Text {
            en: "How late does the last client get an event?",
            zh: "最后一个客户端晚多久收到事件？",
        },
        Experiment::Slow => Text {
            en: "One connection does something slow: how are the others affected?",
            zh: "一个连接做慢的事情时，其他连接受到什么影响？",
        },
        Experiment::Stuck => Text {
            en: "One client stops reading: what does it cost, and which client pays?",
            zh: "一个客户端停止读取：代价是什么，由谁承担？",
        },
        Experiment::Capacity => Text {
            en: "What is the capacity, and what happens beyond it?",
            zh: "容量是多少？超过容量会怎样？",
        },
    }
}

/// Returns the result that is expected of an experiment, stated before any measurement.
pub(super) fn prediction(experiment: Experiment) -> Text {
    match experiment {
        Experiment::Idle => Text {
            en: "a thread costs tens of kilobytes, most of them in the kernel; with one thread for all, a client costs a socket.",
            zh: "一个线程要几十 KB，大部分在内核里；所有客户端共用一个线程时，一个客户端只要一个套接字。",
        },
        Experiment::Event => Text {
            en: "waking a thread costs more than writing the event; without a wake-up only the write is left.",
            zh: "唤醒一个线程比写出事件开销更大；不唤醒线程时，只剩下写的开销。",
        },
        Experiment::Latency => Text {
            en: "the last of N clients waits for N writes; with a thread for each client it also waits for N wake-ups.",
            zh: "N 个客户端中的最后一个要等 N 次写；每个客户端一个线程时，还要等 N 次唤醒。",
        },
        Experiment::Slow => Text {
            en: "with threads, a disk read delays no other connection, and a computation shares the CPU with them; on one thread all connections wait for both.",
            zh: "多线程时，读盘不会耽误其他连接，计算则与它们分享 CPU；单线程时，读盘和计算都让所有连接等待。",
        },
        Experiment::Stuck => Text {
            en: "a blocked write costs one sleeping thread; without such a thread, either a buffer grows or events are dropped.",
            zh: "被阻塞的写操作只占用一个睡眠的线程；没有这样的线程，要么缓冲区增长，要么丢弃事件。",
        },
        Experiment::Capacity => Text {
            en: "descriptors run out first; Apache stops at the number in its configuration. What matters is that the server goes on when it is full.",
            zh: "最先用完的是描述符；Apache 的上限则由其配置决定。重要的是，容量用尽之后服务器还能继续工作。",
        },
    }
}

/// The tutorials' claim (the report says: the articles' sentence) that the lab puts to the test.
pub(super) const SENTENCE: Text = Text {
    en: "With Apache every connection is a thread, so many connections use many resources; Node serves all of \
         them on one thread, so it uses far fewer, but no connection may do anything slow.",
    zh: "Apache 为每个连接用一个线程，连接多了就耗费大量资源；Node 用一个线程服务所有连接，耗费少得多，但任何连接都不能做慢的事情。",
};

/// What a point, line or cell of an engine says whose core was busy all the time.
pub(super) const SATURATED: Text = Text { en: "saturated", zh: "饱和" };

/// How to check that the comparison is fair.
pub(super) const CHECK: Text = Text {
    en: "Start an engine yourself: (echo 50 64; cat) | threadcast lab engine NAME prints its address and sends 50 events a \
         second of 64 bytes on /channels/bench. Look at ps -L, /proc/PID/status and pidstat -wt while clients connect. Every \
         engine sets TCP_NODELAY, sends the same bytes, keeps the same history if it keeps one, and runs alone on one \
         core while the load runs on another.",
    zh: "请自己启动一个引擎：(echo 50 64; cat) | threadcast lab engine 名称 会打印它的地址，并在 /channels/bench 上每秒发送 50 个 64 字节的事件。\
         客户端连接时，请看 ps -L、/proc/PID/status 和 pidstat -wt。每个引擎都设置了 TCP_NODELAY，发送同样的字节；\
         保留历史的引擎保留同样多的历史；引擎独占一个核，负载在另一个核上运行。",
};

/// Returns the description of an engine.
pub(super) fn engine(engine: Engine) -> Text {
    match engine {
        Engine::Direct => Text {
            en: "threadcast by default: a thread for each client, and the broadcaster, which writes to all clients that keep up.",
            zh: "threadcast 的默认方式：每个客户端一个线程，另有一个广播线程写给所有跟得上的客户端。",
        },
        Engine::Wake => Text {
            en: "threadcast --delivery wake: a thread for each client, which each event wakes. The textbook's Apache.",
            zh: "threadcast --delivery wake：每个客户端一个线程，每个事件都唤醒它。教科书里的 Apache。",
        },
        Engine::TinyHttp => Text {
            en: "The same registry inside tiny_http::Server: two threads for each client.",
            zh: "同样的注册表（registry）放在 tiny_http::Server 里：每个客户端两个线程。",
        },
        Engine::EventLoop => Text {
            en: "One thread with epoll (mio), in Rust, with the same encoder. The textbook's Node, as good as we can \
                 make it. Unlike direct it has no subscriptions and no channel patterns.",
            zh: "一个线程，用 epoll（mio），Rust 编写，同样的编码器。教科书里的 Node，我们尽力把它写好。与 direct 不同，它没有订阅，也没有频道模式。",
        },
        Engine::Node => Text {
            en: "Node's http module in 40 lines, as in the articles: node -e, see src/lab/engine/node.js.",
            zh: "用 Node 的 http 模块写成，40 行，与文章里一样：node -e，见 src/lab/engine/node.js。",
        },
        Engine::ApachePrefork => Text {
            en: "Debian's Apache with mpm_prefork and a streaming CGI script: two processes for each client, Apache's and the \
                 script's. The script subscribes to threadcast, as a PHP page subscribes to Redis. The figures include all of \
                 these processes and threadcast. See src/lab/engine/apache.",
            zh: "Debian 的 Apache，mpm_prefork 加一个流式 CGI 脚本：每个客户端两个进程，一个是 Apache 的，一个是脚本的；脚本向 threadcast \
                 订阅，就像 PHP 页面向 Redis 订阅。数字包括所有这些进程和 threadcast。见 src/lab/engine/apache。",
        },
        Engine::ApacheEvent => Text {
            en: "Debian's Apache with mpm_event and mod_proxy, in front of direct: for each client one thread in Apache and one in \
                 threadcast. The figures include both; subtract those of direct to get Apache alone. See src/lab/engine/apache.",
            zh: "Debian 的 Apache，mpm_event 加 mod_proxy，后面是 direct：每个客户端在 Apache 中一个线程，在 threadcast 中一个线程。\
                 数字包括两者；减去 direct 的数字，就是 Apache 单独的开销。见 src/lab/engine/apache。",
        },
    }
}

/// Returns a text for the reason why a measurement is noisy.
pub(super) fn noise(noise: Noise) -> Text {
    match noise {
        Noise::Others => {
            Text { en: "other programs used the cores", zh: "其他程序占用了这些核" }
        }
        Noise::Apart => Text { en: "runs differ by more than 15 %", zh: "各轮相差超过 15 %" },
    }
}

/// Returns notes on what limits the value of the results, such as missing engines, failures and
/// noise.
pub(super) fn notes(results: &Results, language: Language) -> Vec<String> {
    let choose = |en: String, zh: String| match language {
        Language::English => en,
        Language::Chinese => zh,
    };
    let mut notes = Vec::new();
    if results.interrupted {
        notes.push(choose(
            "the run ended before it was done; the report covers the finished part".into(),
            "测量提前结束；报告只包含已完成的部分".into(),
        ));
    }
    if let Some(clamped) = &results.clamped {
        notes.push(choose(clamped.clone(), format!("客户端数受限：{clamped}")));
    }
    for engine in &results.engines {
        let (name, most) = (engine.name(), engine.most_clients());
        if most < results.clients {
            notes.push(choose(
                format!(
                    "{name} was measured with {most} clients at most, the others with {}",
                    results.clients
                ),
                format!("{name} 最多测了 {most} 个客户端，其他引擎 {} 个", results.clients),
            ));
        }
    }
    for (engine, how) in &results.missing {
        let name = engine.name();
        notes
            .push(choose(format!("{name} was not measured: {how}"), format!("未测 {name}：{how}")));
    }
    for failure in &results.failures {
        let (name, why, run) = (failure.engine.name(), &failure.why, failure.run);
        let experiment = failure.experiment.name();
        notes.push(choose(
            format!("{name} failed in {experiment}, run {run}: {why}"),
            format!("{name} 在 {experiment} 第 {run} 轮失败：{why}"),
        ));
    }
    if !results.samples.is_empty() && results.samples.iter().all(|sample| sample.run == 1) {
        notes.push(choose(
            "everything was measured once, so the difference between runs is unknown; pass --runs 3 to see it".into(),
            "全部只测了一轮，看不出各轮相差多少；加上 --runs 3 就能看到".into(),
        ));
    }
    for engine in &results.engines {
        let saturated = results.points(Experiment::Event, *engine).into_iter();
        let saturated: Vec<_> =
            saturated.filter(|point| results.is_saturated(*engine, *point)).collect();
        if saturated.is_empty() {
            continue;
        }
        let at = |(clients, rate): &(usize, u32), en| {
            let clients = digits(float(*clients as u64), 0);
            if en {
                format!("{clients} clients at {rate} events/s")
            } else {
                format!("{clients} 个客户端、每秒 {rate} 个事件")
            }
        };
        let all = |en| saturated.iter().map(|point| at(point, en)).collect::<Vec<_>>();
        let name = engine.name();
        notes.push(choose(
            format!("{name} is saturated with {}: its core is always busy, so events wait longer the longer the measurement lasts", all(true).join(", with ")),
            format!("{name} 已饱和（{}）：它的核一直在忙，所以测量越久，事件等得越久", all(false).join("；")),
        ));
    }
    let mut noisy: Vec<(Experiment, Noise, Vec<&str>)> = Vec::new();
    for (experiment, engine, why) in results.noise() {
        match noisy.iter_mut().find(|it| (it.0, it.1) == (experiment, why)) {
            Some((_, _, engines)) => engines.push(engine.name()),
            None => noisy.push((experiment, why, vec![engine.name()])),
        }
    }
    for (experiment, why, engines) in noisy {
        let (experiment, engines) = (experiment.name(), engines.join(", "));
        let Text { en, zh } = noise(why);
        notes.push(choose(
            format!("noisy: {experiment} of {engines}: {en}; the error may exceed 15 %"),
            format!("有干扰：{experiment}（{engines}）：{zh}；误差可能超过 15 %"),
        ));
    }
    notes
}

/// Returns what the figures of an experiment mean, as a sentence with this machine's numbers.
pub(super) fn meaning(results: &Results, experiment: Experiment, language: Language) -> String {
    let figure = |engine, name| results.shown(experiment, engine, name).map(|it| it.median);
    let kb = |bytes: f64| digits(bytes / 1024.0, 0);
    let choose = |en: String, zh: String| match language {
        Language::English => en,
        Language::Chinese => zh,
    };
    let (direct, wake, event_loop) = (Engine::Direct, Engine::Wake, Engine::EventLoop);
    let both = |name| Some((figure(wake, name)?, figure(event_loop, name)?));
    let meaning = match experiment {
        Experiment::Idle => figure(direct, "client_bytes").zip(both("client_bytes")).map(|(direct, (wake, one))| {
            let text = choose(
                format!(
                    "A client takes {} KB of memory if its own thread sends, {} KB if its own thread never sends, and {} KB with one \
                     thread for all. RSS shows little of this, and nothing of what the kernel keeps for a thread that has sent once.",
                    kb(wake), kb(direct), kb(one)
                ),
                format!(
                    "由自己的线程发送时，一个客户端占用 {} KB 内存；自己的线程从不发送时 {} KB；所有客户端共用一个线程时 {} KB。RSS 只显示其中一小部分，完全不显示内核为发送过一次的线程保留的内存。",
                    kb(wake), kb(direct), kb(one)
                ),
            );
            text + &crossings(results, language)
        }),
        Experiment::Event => figure(direct, "cpu_us").zip(both("cpu_us")).map(|(direct, (wake, one))| {
            let (wake_us, direct_us, one_us) = (digits(wake, 1), digits(direct, 1), digits(one, 1));
            let times = digits(wake / direct.max(1e-9), 1);
            choose(
                format!(
                    "An event costs {wake_us} µs if it wakes a thread, {direct_us} µs if it does not, and {one_us} µs in an event loop: \
                     the difference is the context switch ({times} times the CPU time), not the thread."
                ),
                format!(
                    "一个事件若唤醒一个线程，要 {wake_us} µs；不唤醒线程，要 {direct_us} µs；在事件循环中，要 {one_us} µs：\
                     差别在于上下文切换（CPU 时间是 {times} 倍），而不在于线程。"
                ),
            )
        }),
        Experiment::Latency => figure(direct, "p99_ms").zip(both("p99_ms")).map(|(direct, (wake, one))| {
            let [wake, direct, one] = [wake, direct, one].map(|late| digits(late, 1));
            choose(
                format!("99 % of the events arrived within {wake} ms from woken threads, {direct} ms from the broadcaster, and {one} ms from the event loop."),
                format!("99 % 的事件的到达时间：唤醒线程时在 {wake} ms 内，由广播线程发送时在 {direct} ms 内，事件循环在 {one} ms 内。"),
            )
        }),
        Experiment::Slow => both("disk_silence_ms").zip(both("cpu_silence_ms")).map(|((wake, one), (busy, busy_one))| {
            let [wake, one, busy, busy_one] = [wake, one, busy, busy_one].map(|late| digits(late, 0));
            choose(
                format!("While one handler waited for the disk, another client got no event for up to {wake} ms with threads (wake) and {one} ms on the event loop. While one handler computed, it was {busy} and {busy_one} ms. An event was due every 10 ms."),
                format!("一个处理函数等待磁盘时，另一个客户端收不到事件的最长时间：多线程（wake）{wake} ms，事件循环 {one} ms；一个处理函数计算时，分别为 {busy} 和 {busy_one} ms。每 10 ms 应有一个事件。"),
            )
        }),
        Experiment::Stuck => figure(direct, "grown_bytes").zip(figure(Engine::Node, "grown_bytes")).map(|(ours, node)| {
            let mb = |bytes: f64| digits(bytes / 1024.0 / 1024.0, 0);
            choose(
                format!("direct grew by {} MB: the slow client's own thread waits for it, and its events stay in the shared history. node grew by {} MB: it buffers all unsent events, without a limit.", mb(ours), mb(node)),
                format!("direct 增长 {} MB：慢客户端自己的线程在等它，事件留在共享的历史里。node 增长 {} MB：未发送的事件都放在缓冲区里，没有限制。", mb(ours), mb(node)),
            )
        }),
        Experiment::Capacity => Some(capacity(results, language)),
    };
    meaning.unwrap_or_default()
}

/// Returns sentences that compare `direct` with each engine that takes more memory without clients
/// but less per client: up to how many clients does `direct` take less memory?
fn crossings(results: &Results, language: Language) -> String {
    let line = |engine| {
        let of = |name| results.shown(Experiment::Idle, engine, name).map(|it| it.median);
        Some((of("base_bytes")?, of("rss")? + of("kernel")?))
    };
    let Some((base, client)) = line(Engine::Direct) else { return String::new() };
    let others = results.engines.iter().filter_map(|engine| {
        let (other_base, other) = line(*engine)?;
        let clients = (other_base - base) / (client - other);
        // Up to ten clients, the difference is within the noise of the measurement.
        (other_base > base && other < client && clients > 10.0).then(|| {
            let (name, clients) = (engine.name(), digits(clients, 0));
            match language {
                Language::English => {
                    format!(" Up to {clients} clients, direct takes less memory than {name}.")
                }
                Language::Chinese => {
                    format!("客户端少于 {clients} 个时，direct 占用的内存比 {name} 少。")
                }
            }
        })
    });
    others.collect()
}

fn capacity(results: &Results, language: Language) -> String {
    let found = results.engines.iter().filter_map(|engine| {
        let of = |name| results.shown(Experiment::Capacity, *engine, name).map(|it| it.median);
        let (held, back) = (digits(of("held")?, 0), of("come_back")? > 0.5);
        let name = engine.name();
        Some(match (language, back) {
            (Language::English, true) => {
                format!(
                    "{name} held {held} clients, and accepted new ones after some disconnected."
                )
            }
            (Language::English, false) => {
                format!("{name} held {held} clients, and never accepted a client again.")
            }
            (Language::Chinese, true) => {
                format!("{name} 容纳 {held} 个客户端，有客户端断开后接受新的客户端。")
            }
            (Language::Chinese, false) => {
                format!("{name} 容纳 {held} 个客户端，此后再也不接受新的客户端。")
            }
        })
    });
    found.collect::<Vec<_>>().join(" ")
}

/// Returns the tutorials' sentence with this machine's figures, without the parts that were not
/// measured.
pub(super) fn sentence(results: &Results, language: Language) -> String {
    let of = |experiment, engine, name| results.shown(experiment, engine, name).map(|it| it.median);
    let clients = digits(float(results.clients as u64), 0);
    let other =
        if results.engines.contains(&Engine::Node) { Engine::Node } else { Engine::EventLoop };
    let name = other.name();
    let mb = |bytes: f64| digits(bytes / 1024.0 / 1024.0, 0);
    let memory = |engine| of(Experiment::Idle, engine, "memory_bytes");
    let cpu = |engine| of(Experiment::Event, engine, "cpu_us");
    let mut parts = Vec::new();
    let choose = |en: String, zh: String| match language {
        Language::English => en,
        Language::Chinese => zh,
    };
    if let (Some(wake), Some(direct), Some(one)) =
        (memory(Engine::Wake), memory(Engine::Direct), memory(other))
    {
        parts.push(choose(
            format!("With a thread for each connection, {clients} clients take {} MB, or {} MB if their threads do not send; with one thread for all ({name}), {} MB.", mb(wake), mb(direct), mb(one)),
            format!("每个连接一个线程时，{clients} 个客户端共占 {} MB，线程不发送时 {} MB；所有连接共用一个线程（{name}）时 {} MB。", mb(wake), mb(direct), mb(one)),
        ));
    }
    if let (Some(wake), Some(direct), Some(one)) =
        (cpu(Engine::Wake), cpu(Engine::Direct), cpu(other))
    {
        let [wake, direct, one] = [wake, direct, one].map(|micros| digits(micros, 1));
        parts.push(choose(
            format!("An event costs {wake} µs if it wakes a thread, {direct} µs if it does not, and {one} µs in {name}."),
            format!("一个事件若唤醒线程，要 {wake} µs；不唤醒，要 {direct} µs；在 {name} 中，要 {one} µs。"),
        ));
    }
    let slow = |engine| of(Experiment::Slow, engine, "disk_silence_ms");
    if let (Some(threads), Some(one)) = (slow(Engine::Direct), slow(other)) {
        let [threads, one] = [threads, one].map(|millis| digits(millis, 0));
        parts.push(choose(
            format!("When one connection waits for a disk, the others get no event for up to {threads} ms with threads, and {one} ms in {name}."),
            format!("一个连接等待磁盘时，其他连接收不到事件的最长时间：多线程 {threads} ms，{name} {one} ms。"),
        ));
    }
    parts.join(if language == Language::English { " " } else { "" })
}
