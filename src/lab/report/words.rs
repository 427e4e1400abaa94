//! What the report says, in two languages.

use crate::lab::engine::Engine;
use crate::lab::experiment::Experiment;
use crate::lab::figures::{digits, float};
use crate::lab::results::{Noise, Results};

/// A language of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    English,
    Chinese,
}

impl Language {
    pub(super) const ALL: [Self; 2] = [Self::English, Self::Chinese];

    /// Its tag in HTML.
    pub(super) fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Chinese => "zh",
        }
    }
}

/// The same in both languages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Text {
    pub en: &'static str,
    pub zh: &'static str,
}

impl Text {
    pub(super) fn of(self, language: Language) -> &'static str {
        match language {
            Language::English => self.en,
            Language::Chinese => self.zh,
        }
    }
}

pub(super) fn question(experiment: Experiment) -> Text {
    match experiment {
        Experiment::Idle => Text {
            en: "What does an idle client cost?",
            zh: "一个空闲的客户端要花费多少？",
        },
        Experiment::Event => {
            Text { en: "What does an event cost?", zh: "一个事件要花费多少？" }
        }
        Experiment::Latency => {
            Text { en: "How late is the last client?", zh: "最后一个客户端晚多久？" }
        }
        Experiment::Slow => Text {
            en: "One connection does something slow: what do the others feel?",
            zh: "一个连接在做慢的事：其他连接有什么感觉？",
        },
        Experiment::Stuck => Text {
            en: "One client stops reading: who pays?",
            zh: "一个客户端不再读取：谁来付出代价？",
        },
        Experiment::Capacity => Text {
            en: "Where is the capacity, and what happens one client past it?",
            zh: "上限在哪里？超过一个客户端会怎样？",
        },
    }
}

pub(super) fn prediction(experiment: Experiment) -> Text {
    match experiment {
        Experiment::Idle => Text {
            en: "a thread costs tens of kilobytes, most of them in the kernel; one thread for all costs a socket.",
            zh: "一个线程要几十 KB，多数在内核里；所有客户端共用一个线程时，只要一个套接字。",
        },
        Experiment::Event => Text {
            en: "waking a thread costs more than writing the event; who wakes nobody pays for the write alone.",
            zh: "唤醒一个线程比写出事件更贵；不唤醒任何线程的只付写的钱。",
        },
        Experiment::Latency => Text {
            en: "the last of N clients waits for N writes, and for N wake-ups where each has its thread.",
            zh: "N 个客户端中的最后一个要等 N 次写；每个都有自己线程时，还要等 N 次唤醒。",
        },
        Experiment::Slow => Text {
            en: "on threads nobody notices a disk, and a computation is shared out; on one thread all wait for both.",
            zh: "多线程时没人察觉读盘，计算由调度器分摊；单线程时所有人都等。",
        },
        Experiment::Stuck => Text {
            en: "a blocked writer costs a sleeping thread; without one, either a buffer grows or events are left out.",
            zh: "被阻塞的写者只占一个睡着的线程；没有它，要么缓冲区增长，要么丢弃事件。",
        },
        Experiment::Capacity => Text {
            en: "descriptors bind first, in Apache what its configuration says; what matters is whether the server survives its capacity.",
            zh: "最先用完的是描述符，Apache 则是其配置所定的数目；要紧的是服务器能否在上限之后活下来。",
        },
    }
}

/// The sentence that is measured.
pub(super) const SENTENCE: Text = Text {
    en: "With Apache every connection is a thread, so many connections cost many resources; Node serves all of \
         them on one thread, so it costs far less, but no connection may do anything slow.",
    zh: "Apache 每个连接一个线程，连接多了就耗费大量资源；Node 用一个线程服务所有连接，花费少得多，但任何连接都不能做慢的事。",
};

/// How to see that nobody was hobbled.
pub(super) const CHECK: Text = Text {
    en: "Start one yourself: (echo 50 64; cat) | threadcast lab engine NAME prints its address and sends 50 events a \
         second of 64 bytes on /channels/bench. Look at ps -L, /proc/PID/status and pidstat -wt while clients come. Every \
         engine has TCP_NODELAY, sends the same bytes, keeps the same history where it keeps one, and runs alone on one \
         core while the load runs on another.",
    zh: "自己启动一个：(echo 50 64; cat) | threadcast lab engine 名称 会打印地址，并在 /channels/bench 上每秒发送 50 个 64 字节的事件。\
         客户端到来时看 ps -L、/proc/PID/status 和 pidstat -wt。每个引擎都设了 TCP_NODELAY，发送同样的字节，\
         有历史的保留同样多的历史，独占一个核，负载在另一个核上。",
};

/// What an engine is.
pub(super) fn engine(engine: Engine) -> Text {
    match engine {
        Engine::Direct => Text {
            en: "threadcast as it is: a thread for each client, and one that sends to all who keep up.",
            zh: "threadcast 默认方式：每个客户端一个线程，另有一个线程向所有跟得上的客户端发送。",
        },
        Engine::Wake => Text {
            en: "threadcast --delivery wake: a thread for each client, woken for each event. The textbook's Apache.",
            zh: "threadcast --delivery wake：每个客户端一个线程，每个事件都唤醒它。教科书里的 Apache。",
        },
        Engine::TinyHttp => Text {
            en: "The same registry inside tiny_http::Server: two threads a client.",
            zh: "同一个登记表放在 tiny_http::Server 里：每个客户端两个线程。",
        },
        Engine::EventLoop => Text {
            en: "One thread, epoll by way of mio, in Rust, with the same encoder. The textbook's Node, as good as we can \
                 make it. It keeps no subscriptions and no patterns of channels, which direct does.",
            zh: "一个线程，用 mio 的 epoll，Rust 编写，同样的编码器。尽我们所能写好的教科书 Node。它没有 direct 的订阅和频道模式。",
        },
        Engine::Node => Text {
            en: "Node's http in 40 lines, as the articles write it: node -e, see src/lab/engine/node.js.",
            zh: "文章里那样用 Node 的 http 写成，约 40 行：node -e，见 src/lab/engine/node.js。",
        },
        Engine::ApachePrefork => Text {
            en: "Debian's Apache with mpm_prefork and a streaming CGI script: two processes for each client, Apache's and the \
                 script's, which subscribes at threadcast as a PHP page does at Redis. All of them are counted, and threadcast \
                 too. See src/lab/engine/apache.",
            zh: "Debian 的 Apache，mpm_prefork 加一个流式 CGI 脚本：每个客户端两个进程，一个是 Apache 的，一个是脚本的；脚本向 threadcast \
                 订阅，就像 PHP 页面向 Redis 订阅。所有进程都计入，threadcast 也计入。见 src/lab/engine/apache。",
        },
        Engine::ApacheEvent => Text {
            en: "Debian's Apache with mpm_event and mod_proxy, before direct: a thread for each client in Apache and one in \
                 threadcast. Both are counted: direct is what Apache alone would not need. See src/lab/engine/apache.",
            zh: "Debian 的 Apache，mpm_event 加 mod_proxy，后面是 direct：每个客户端在 Apache 中一个线程，在 threadcast 中一个线程。\
                 两者都计入。见 src/lab/engine/apache。",
        },
    }
}

pub(super) fn noise(noise: Noise) -> Text {
    match noise {
        Noise::Others => Text { en: "others used the cores", zh: "其他程序占用了处理器" },
        Noise::Apart => Text { en: "runs differ by more than 15 %", zh: "各轮相差超过 15 %" },
    }
}

/// What a reader must know before he believes a figure.
pub(super) fn notes(results: &Results, language: Language) -> Vec<String> {
    let say = |en: String, zh: String| match language {
        Language::English => en,
        Language::Chinese => zh,
    };
    let mut notes = Vec::new();
    if results.interrupted {
        notes.push(say(
            "it was ended before it was done; this is what was done".into(),
            "测量提前结束；以下是已完成的部分".into(),
        ));
    }
    if let Some(clamped) = &results.clamped {
        notes.push(say(clamped.clone(), format!("客户端数受限：{clamped}")));
    }
    for engine in &results.engines {
        let (name, most) = (engine.name(), engine.most_clients());
        if most < results.clients {
            notes.push(say(
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
        notes.push(say(format!("{name} was left out: {how}"), format!("未测 {name}：{how}")));
    }
    for failure in &results.failures {
        let (name, why, run) = (failure.engine.name(), &failure.why, failure.run);
        let experiment = failure.experiment.name();
        notes.push(say(
            format!("{name} failed in {experiment}, run {run}: {why}"),
            format!("{name} 在 {experiment} 第 {run} 轮失败：{why}"),
        ));
    }
    if !results.samples.is_empty() && results.samples.iter().all(|sample| sample.run == 1) {
        notes.push(say(
            "all was measured once, so that nothing shows how far two runs lie apart; --runs 3 does".into(),
            "全部只测了一轮，看不出两轮相差多少；加 --runs 3 可见".into(),
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
        notes.push(say(
            format!("noisy: {experiment} of {engines}: {en}; do not trust it to 15 %"),
            format!("有干扰：{experiment}（{engines}）：{zh}；误差可能超过 15 %"),
        ));
    }
    notes
}

/// What the figures of an experiment mean, in this machine's own numbers.
pub(super) fn meaning(results: &Results, experiment: Experiment, language: Language) -> String {
    let figure = |engine, name| results.shown(experiment, engine, name).map(|it| it.median);
    let kb = |bytes: f64| digits(bytes / 1024.0, 0);
    let say = |en: String, zh: String| match language {
        Language::English => en,
        Language::Chinese => zh,
    };
    let (direct, wake, event_loop) = (Engine::Direct, Engine::Wake, Engine::EventLoop);
    let both = |name| Some((figure(wake, name)?, figure(event_loop, name)?));
    let said = match experiment {
        Experiment::Idle => figure(direct, "client_bytes").zip(both("client_bytes")).map(|(direct, (wake, one))| {
            let text = say(
                format!(
                    "A client takes {} KB of this machine with its own thread that sends, {} KB with one that \
                     never has to, {} KB with one thread for all. RSS shows little of it, and none of what the kernel keeps for a thread that has once sent.",
                    kb(wake), kb(direct), kb(one)
                ),
                format!(
                    "自己的线程负责发送时，每个客户端占用本机 {} KB；线程从不发送时 {} KB；共用一个线程时 {} KB。RSS 只看得到一小部分，内核为发送过数据的线程保留的内存完全看不到。",
                    kb(wake), kb(direct), kb(one)
                ),
            );
            text + &crossings(results, language)
        }),
        Experiment::Event => figure(direct, "cpu_us").zip(both("cpu_us")).map(|(direct, (wake, one))| {
            let (wake_us, direct_us, one_us) = (digits(wake, 1), digits(direct, 1), digits(one, 1));
            let times = digits(wake / direct.max(1e-9), 1);
            say(
                format!(
                    "Waking a thread for each event costs {wake_us} µs, sending without waking {direct_us}, an event \
                     loop {one_us}: it is the context switch that costs ({times} times as much), not the thread."
                ),
                format!(
                    "每个事件唤醒一个线程要 {wake_us} µs，不唤醒直接发送 {direct_us} µs，事件循环 {one_us} µs：\
                     贵的是上下文切换（{times} 倍），不是线程。"
                ),
            )
        }),
        Experiment::Latency => figure(direct, "p99_ms").zip(both("p99_ms")).map(|(direct, (wake, one))| {
            let [wake, direct, one] = [wake, direct, one].map(|late| digits(late, 1));
            say(
                format!("Of 100 events 99 had arrived after {wake} ms with woken threads, {direct} ms sent directly, {one} ms from the event loop."),
                format!("100 个事件中的 99 个：唤醒线程时 {wake} ms 内到达，直接发送 {direct} ms，事件循环 {one} ms。"),
            )
        }),
        Experiment::Slow => both("disk_silence_ms").zip(both("cpu_silence_ms")).map(|((wake, one), (busy, busy_one))| {
            let [wake, one, busy, busy_one] = [wake, one, busy, busy_one].map(|late| digits(late, 0));
            say(
                format!("While one handler waited for the disk, somebody else heard nothing for {wake} ms on threads (wake) and {one} ms on the event loop; while one computed, {busy} and {busy_one} ms. An event came every 10 ms."),
                format!("一个处理函数等待磁盘时，其他客户端在多线程（wake）下最长 {wake} ms 没有消息，事件循环 {one} ms；计算时分别为 {busy} 和 {busy_one} ms。事件每 10 ms 一个。"),
            )
        }),
        Experiment::Stuck => figure(direct, "grown_bytes").zip(figure(Engine::Node, "grown_bytes")).map(|(ours, node)| {
            let mb = |bytes: f64| digits(bytes / 1024.0 / 1024.0, 0);
            say(
                format!("direct grew by {} MB: the slow client's own thread waits for it and its events stay in the shared history. node grew by {} MB: what is not sent is kept, without end.", mb(ours), mb(node)),
                format!("direct 增长 {} MB：慢客户端自己的线程在等它，事件留在共享的历史里。node 增长 {} MB：没发出去的都留着，没有尽头。", mb(ours), mb(node)),
            )
        }),
        Experiment::Capacity => Some(capacity(results, language)),
    };
    said.unwrap_or_default()
}

/// At how many clients an engine that begins small holds as much as one that begins large.
fn crossings(results: &Results, language: Language) -> String {
    let line = |engine| {
        let of = |name| results.shown(Experiment::Idle, engine, name).map(|it| it.median);
        Some((of("base_bytes")?, of("rss")? + of("kernel")?))
    };
    let Some((base, client)) = line(Engine::Direct) else { return String::new() };
    let others = results.engines.iter().filter_map(|engine| {
        let (other_base, other) = line(*engine)?;
        let clients = (other_base - base) / (client - other);
        // Lines that cross within ten clients are one line.
        (other_base > base && other < client && clients > 10.0).then(|| {
            let (name, clients) = (engine.name(), digits(clients, 0));
            match language {
                Language::English => {
                    format!(" direct holds less than {name} up to {clients} clients.")
                }
                Language::Chinese => {
                    format!("客户端少于 {clients} 个时，direct 占用比 {name} 少。")
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
                format!("{name} held {held}, and took new clients when others had left.")
            }
            (Language::English, false) => {
                format!("{name} held {held}, and never took a client again.")
            }
            (Language::Chinese, true) => format!("{name} 容纳 {held} 个，有人离开后接纳新客户端。"),
            (Language::Chinese, false) => format!("{name} 容纳 {held} 个，此后再也不接纳客户端。"),
        })
    });
    found.collect::<Vec<_>>().join(" ")
}

/// The articles' sentence, in this machine's own figures; what was not measured is left out.
pub(super) fn sentence(results: &Results, language: Language) -> String {
    let of = |experiment, engine, name| results.shown(experiment, engine, name).map(|it| it.median);
    let clients = digits(float(results.clients as u64), 0);
    let other =
        if results.engines.contains(&Engine::Node) { Engine::Node } else { Engine::EventLoop };
    let name = other.name();
    let kb = |bytes: f64| digits(bytes / 1024.0, 0);
    let memory = |engine| of(Experiment::Idle, engine, "client_bytes");
    let cpu = |engine| of(Experiment::Event, engine, "cpu_us");
    let mut parts = Vec::new();
    let say = |en: String, zh: String| match language {
        Language::English => en,
        Language::Chinese => zh,
    };
    if let (Some(wake), Some(direct), Some(one)) =
        (memory(Engine::Wake), memory(Engine::Direct), memory(other))
    {
        parts.push(say(
            format!("With a thread for each connection, {clients} clients cost {} KB each ({} KB if the thread need not send), and with one thread for all ({name}) {} KB.", kb(wake), kb(direct), kb(one)),
            format!("每个连接一个线程时，{clients} 个客户端每个占 {} KB（线程不必发送时 {} KB）；所有连接共用一个线程（{name}）时每个占 {} KB。", kb(wake), kb(direct), kb(one)),
        ));
    }
    if let (Some(wake), Some(direct), Some(one)) =
        (cpu(Engine::Wake), cpu(Engine::Direct), cpu(other))
    {
        let [wake, direct, one] = [wake, direct, one].map(|micros| digits(micros, 1));
        parts.push(say(
            format!("An event costs {wake} µs where it wakes a thread, {direct} µs where it does not, and {one} µs in {name}."),
            format!("一个事件，需要唤醒线程时花 {wake} µs，不需要时 {direct} µs，在 {name} 中 {one} µs。"),
        ));
    }
    let slow = |engine| of(Experiment::Slow, engine, "disk_silence_ms");
    if let (Some(threads), Some(one)) = (slow(Engine::Direct), slow(other)) {
        let [threads, one] = [threads, one].map(|millis| digits(millis, 0));
        parts.push(say(
            format!("When one connection waits for a disk, the others hear nothing for {threads} ms on threads and for {one} ms in {name}."),
            format!("一个连接等待磁盘时，其他连接在多线程下最长 {threads} ms 没有消息，在 {name} 中 {one} ms。"),
        ));
    }
    parts.join(if language == Language::English { " " } else { "" })
}
