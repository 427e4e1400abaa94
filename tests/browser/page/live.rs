//! The live view: it follows the server, its figures are right, its controls need the lab, and it
//! is accessible.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::common::{Process, TIMEOUT, TestServer, say, wait_until};
use crate::driver::turns::alone;
use crate::driver::{Page, axe};
use serde_json::Value;
use sse_load::process::find_program;
use sse_load::procfs;
use threadcast::Config;

const READY: &str = "'ready' in document.documentElement.dataset \
    && document.querySelector('#chart-clients output').dataset.value";

/// Helper functions in the page.
const LOOK: &str = "
    window.shown = line => Number(document.querySelector(`output[data-line=${line}]`).dataset.value || NaN);
    window.setClients = clients => {
        const field = document.getElementById('clients-number');
        field.value = clients;
        field.dispatchEvent(new Event('change'));
    };";

fn page(origin: &str) -> Option<Page> {
    let page = Page::open_at(&format!("{origin}/lab.html"), READY)?;
    page.eval(LOOK);
    Some(page)
}

/// Starts a server in this process; its load clients run in a separate process.
fn lab() -> TestServer {
    let program = Some(PathBuf::from(env!("CARGO_BIN_EXE_threadcast")));
    TestServer::with_lab(Config::default(), program)
}

fn number(page: &Page, expression: &str) -> f64 {
    page.eval(expression).as_f64().unwrap_or_else(|| panic!("{expression} is no number"))
}

fn whole(page: &Page, expression: &str) -> u64 {
    page.eval(expression).as_u64().unwrap_or_else(|| panic!("{expression} is no number"))
}

#[track_caller]
fn assert_near(what: &str, shown: f64, is: f64, within: f64) {
    assert!((shown - is).abs() <= is * within, "{what}: the page shows {shown}, it is {is}");
}

/// Measures how long the chart takes to follow the slider. A machine may be busy, so one of eight
/// measurements must be short enough.
#[test]
fn charts_follow_1_000_clients_and_agree_with_proc() {
    let _turn = alone();
    let server = Process::with("--lab");
    if !crate::holds_1_000_clients(&server.get("/status")) {
        return;
    }
    let Some(page) = page(&format!("http://{}", server.addr)) else { return };
    let follow = || {
        page.eval("setClients(0)");
        page.wait_until("shown('clients') === 1");
        let took = number(
            &page,
            "new Promise(seen => {
                const clients = document.querySelector('output[data-line=clients]');
                const began = performance.now();
                const look = new MutationObserver(() => {
                    if (clients.dataset.value < 1001) return;
                    look.disconnect();
                    seen(performance.now() - began);
                });
                look.observe(clients, { attributeFilter: ['data-value'] });
                const slider = document.getElementById('clients');
                slider.value = 1000;
                slider.dispatchEvent(new Event('input'));
                slider.dispatchEvent(new Event('change'));
            })",
        );
        say(&format!("the page shows 1,000 clients after {took:.0} ms"));
        took
    };
    // Other tests use the machine too, so the best of several attempts counts.
    let best = (0..8).map(|_| follow()).find(|took| *took <= 2_000.0);
    assert!(best.is_some(), "within 2 s");

    // Compare the current figures with /proc. A connection may end between the two reads, so each
    // comparison is repeated until the figures agree.
    wait_until(TIMEOUT, "the page shows the number of threads", || {
        page.eval("shown('threads')") == server.count("task")
    });
    wait_until(TIMEOUT, "the page shows the memory", || {
        let (shown, is) = (whole(&page, "shown('memory')") / 1024, server.resident_kib());
        shown.abs_diff(is) < shown / 50
    });
    wait_until(TIMEOUT, "the page shows the kernel's memory", || {
        let is = procfs::machine().expect("/proc").kernel;
        let shown = whole(&page, "shown('kernel')");
        shown.abs_diff(is) < shown / 20
    });
    page.wait_until("shown('micros') > 0 && shown('voluntary') >= 0");
    let drawn = page.eval(
        "[...document.querySelectorAll('figure')].flatMap(figure => [...figure.querySelectorAll('path[data-line]')]
            .map(path => {
                const { low, high } = figure.dataset;
                const last = Number(path.getAttribute('d').split(/[ML]/).at(-1).split(' ')[1]);
                const value = Number(low) + (39 - last) / 38 * (high - low);
                const expected = shown(path.dataset.line);
                return [path.dataset.line, Math.abs(value - expected) <= (high - low) / 100, value, expected];
            })).filter(([, right]) => !right)",
    );
    assert_eq!(drawn, Value::Array(Vec::new()), "each line ends at the shown figure");

    // Compare the rates: the page and /proc measure the same seconds.
    page.eval("document.querySelector('#delivery [value=wake]').click()");
    page.wait_until("shown('voluntary') + shown('involuntary') > 1000");
    let pid = [server.child.id()];
    let usage = || (Instant::now(), procfs::usage(&pid).expect("it runs"));
    let before = usage();
    let shown = page.eval(
        "new Promise(done => {
            const last = document.querySelector('output[data-line=busy]');
            const sums = { switches: 0, busy: 0, seen: 0 };
            const look = new MutationObserver(() => {
                sums.switches += shown('voluntary') + shown('involuntary');
                sums.busy += shown('busy');
                if (++sums.seen < 6) return;
                look.disconnect();
                done(sums);
            });
            look.observe(last, { attributeFilter: ['data-value'] });
        })",
    );
    let after = usage();
    let seconds = (after.0 - before.0).as_secs_f64();
    let switches = |usage: procfs::Usage| usage.voluntary + usage.involuntary;
    let mean = |key: &str| shown[key].as_f64().expect(key) / shown["seen"].as_f64().expect("some");
    let sum = u32::try_from(switches(after.1).saturating_sub(switches(before.1)));
    let is = f64::from(sum.expect("some seconds' worth")) / seconds;
    assert_near("switches a second", mean("switches"), is, 0.3);
    let is = (after.1.cpu.saturating_sub(before.1.cpu)).as_secs_f64() / seconds;
    assert_near("of a core", mean("busy"), is, 0.3);
    page.wait_until("shown('out') > 5000 && shown('micros') > 0 && shown('micros') < 1000");
    page.assert_nothing_went_wrong();
}

#[test]
fn each_control_acts_on_the_server() {
    let server = Process::with("--lab --write-deadline 3s --max-clients 50");
    let Some(page) = page(&format!("http://{}", server.addr)) else { return };
    page.wait_until("document.querySelector('#delivery [value=direct]').ariaPressed === 'true'");
    page.eval("document.querySelector('#delivery [value=wake]').focus()");
    page.press("Enter");
    page.wait_until("document.querySelector('#delivery [value=wake]').ariaPressed === 'true'");
    page.wait_until("document.getElementById('state').textContent.endsWith('wake')");
    assert_eq!(server.get("/status").json()["delivery"], "wake");
    page.wait_until("document.querySelector('#chart-clients .changed').getAttribute('d') !== ''");

    page.eval("setClients(1000)");
    page.wait_until(
        "document.getElementById('clients-result').textContent === \
         '1,000 clients are more than this server admits: it opens 49. --max-clients allows no more.'",
    );
    page.wait_until("shown('clients') === 50");
    page.wait_until("document.getElementById('clients-latency').dataset.clients === '49'");
    page.eval("setClients(20)");
    page.wait_until("shown('clients') === 21");
    page.wait_until("document.getElementById('clients-result').textContent === ''");

    if find_program("node").is_some() {
        page.eval("document.querySelector('#engine [value=node]').click()");
        page.wait_until("document.querySelector('#engine [value=node]').ariaPressed === 'true'");
        let engine = || server.get("/status").json()["lab"]["loop"]["engine"].clone();
        wait_until(TIMEOUT, "Node.js has the clients", || engine() == "node");
        page.wait_until("shown('clients') === 21");
    }

    page.eval("document.getElementById('stuck').click()");
    page.wait_until(
        "document.getElementById('stuck-result').textContent === 'Not reading now: 1. Disconnected so far: 0.'",
    );
    page.wait_until(
        "document.getElementById('stuck-result').textContent === 'Not reading now: 0. Disconnected so far: 1.'",
    );

    page.eval("document.querySelector('.slow[value=cpu]').click()");
    page.wait_until("document.getElementById('slow-result').textContent.startsWith('5 of 5: 2')");
    page.wait_until("!document.querySelector('.slow[value=cpu]').disabled");

    page.eval("setClients(0)");
    page.wait_until("shown('clients') === 1");
    page.eval("document.getElementById('table-toggle').click()");
    page.wait_until("document.querySelectorAll('#table tbody tr').length > 5");
    page.assert_nothing_went_wrong();
}

#[test]
fn live_view_has_no_controls_without_the_lab() {
    let server = TestServer::start();
    let Some(page) = page(&format!("http://{}", server.addr)) else { return };
    page.wait_until("shown('clients') === 1 && shown('threads') > 5 && shown('memory') > 1e6");
    page.wait_until("[...document.querySelectorAll('#thread-list th code')].some(name => name.textContent === 'broadcaster')");
    assert_eq!(page.eval("document.querySelectorAll('#acts, main input, #delivery').length"), 0);
    assert_eq!(page.requests("/controls.js"), 0);
    let rail = page.eval("document.getElementById('rail').innerText");
    assert!(rail.as_str().is_some_and(|text| text.contains("threadcast --lab")), "{rail}");
    page.assert_nothing_went_wrong();
}

#[test]
fn live_view_shows_that_the_server_is_gone() {
    let server = Process::with("");
    let Some(page) = page(&format!("http://{}", server.addr)) else { return };
    drop(server);
    page.wait_until("document.getElementById('state').dataset.state === '0'");
    page.wait_until("document.getElementById('state').textContent.startsWith('Lost ')");
    page.wait_until("'stale' in document.documentElement.dataset");
}

#[test]
fn controls_follow_the_server_after_a_reload() {
    let server = Process::with("--lab");
    let Some(page) = page(&format!("http://{}", server.addr)) else { return };
    page.eval("document.getElementById('rate').value = 30; setClients(100)");
    page.wait_until("document.getElementById('clients-latency').dataset.clients === '100'");
    page.eval("window.before = true; location.reload()");
    page.wait_until(&format!("!window.before && {READY}"));
    page.wait_until("document.getElementById('clients').value === '100'");
    page.wait_until("document.getElementById('clients-number').value === '100'");
    page.wait_until("document.getElementById('rate').value === '30'");
    page.wait_until("document.getElementById('rate-shown').textContent === '30'");
    assert_eq!(server.get("/status").json()["lab"]["clients"], 100, "they have stayed open");
    server.request(
        "POST /lab/clients?count=0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    );
    page.wait_until("document.getElementById('clients-number').value === '0'");
    page.assert_nothing_went_wrong();
}

#[test]
fn clients_close_with_the_button_and_with_the_page() {
    let server = Process::with("--lab");
    let Some(page) = page(&format!("http://{}", server.addr)) else { return };
    let clients = |count: u64| {
        wait_until(TIMEOUT, "the server has as many clients", || {
            server.get("/status").json()["clients"] == count
        });
    };
    page.eval("setClients(20)");
    clients(21);
    page.eval("document.getElementById('close-all').click()");
    clients(1);
    page.eval("setClients(20)");
    clients(21);
    drop(page);
    clients(0);
}

#[test]
fn live_view_names_a_full_server() {
    let server = Process::with("--max-clients 1");
    let stream = server.stream("/channels/x");
    let ready = "'ready' in document.documentElement.dataset";
    let url = format!("http://{}/lab.html", server.addr);
    let Some(page) = Page::open_at(&url, ready) else { return };
    page.wait_until("document.getElementById('state').textContent.startsWith('The server is full: it has 1 of 1 ')");
    drop(stream);
    page.wait_until("document.getElementById('state').textContent.startsWith('1 of 1 clients')");
}

/// A browser opens at most six connections to a server, so six hidden pages must not hold one each.
#[test]
fn hidden_live_view_releases_its_stream() {
    let server = Process::with("");
    let Some(page) = page(&format!("http://{}", server.addr)) else { return };
    let hide = |hidden: bool| {
        page.eval(&format!(
            "Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }}); \
             document.dispatchEvent(new Event('visibilitychange'))"
        ));
    };
    let clients = |count: u64| {
        wait_until(TIMEOUT, "the page has released or opened its stream", || {
            server.get("/status").json()["clients"] == count
        });
    };
    clients(1);
    hide(true);
    clients(0);
    hide(false);
    clients(1);
    page.wait_until("document.getElementById('state').dataset.state === '1'");
    page.assert_nothing_went_wrong();
}

/// A step of the tour has an address. It compares the reader's prediction, which is kept, with what
/// the figures show.
#[test]
fn tour_step_compares_a_prediction_with_the_figures() {
    let server = Process::with("--lab --max-clients 60");
    let Some(page) = page(&format!("http://{}", server.addr)) else { return };
    page.eval("document.getElementById('tour-start').click()");
    page.wait_until("document.getElementById('tour-number').textContent === 'Step 1 of 7'");
    assert_eq!(page.eval("document.getElementById('tour-act').disabled"), true);
    page.eval("document.querySelector('#tour-choices [value=\"0\"]').click()");
    page.eval("document.getElementById('tour-act').click()");
    page.wait_until("document.getElementById('tour-act').disabled === false");
    page.wait_until("!document.getElementById('tour-result').hidden");
    assert_eq!(
        page.eval("document.getElementById('tour-verdict').textContent"),
        "You said: none: it has enough. It was: one for each client."
    );
    let threads = page.eval(
        "[...document.querySelectorAll('#tour-rows tr:first-child td')].map(cell => Number(cell.textContent))",
    );
    let threads: Vec<f64> = serde_json::from_value(threads).expect("two numbers");
    assert!(threads[1] - threads[0] >= 45.0, "{threads:?}");
    page.eval("document.getElementById('tour-next').click()");
    page.wait_until(
        "location.hash === '#step-2' && document.getElementById('tour-choices').hidden",
    );
    page.eval("window.before = true; location.hash = '#step-1'; location.reload()");
    page.wait_until(&format!("!window.before && {READY}"));
    page.wait_until("document.querySelector('#tour-choices [value=\"0\"]').checked");
    page.eval("document.getElementById('tour-close').click()");
    page.wait_until("document.getElementById('clients').checkVisibility()");
    page.eval("localStorage.removeItem('threadcast.tour')");
    page.assert_nothing_went_wrong();
}

/// On a phone, the picture of both sides stays below what is read of the tour.
#[test]
fn tour_on_a_phone_shows_both_sides() {
    let server = Process::with("--lab");
    let Some(page) = page(&format!("http://{}", server.addr)) else { return };
    page.resize(390, 844);
    page.eval("location.hash = '#step-5'");
    page.wait_until("document.getElementById('tour-ask').textContent");
    for read in ["tour-ask", "tour-act"] {
        page.eval(&format!(
            "document.getElementById('{read}').scrollIntoView({{ block: 'nearest' }})"
        ));
        let hidden = page.eval(&format!(
            "(() => {{
                const box = id => document.getElementById(id).getBoundingClientRect();
                const isSeen = ({{ top, bottom, left, right }}) => top >= 0 && bottom <= innerHeight && left >= 0 && right <= innerWidth;
                const hidden = ['{read}', 'threads-canvas', 'loop-canvas', 'threads-strip', 'loop-strip'].filter(id => !isSeen(box(id)));
                return box('{read}').bottom <= box('picture').top ? hidden : [...hidden, 'behind the picture'];
            }})()"
        ));
        assert_eq!(hidden, Value::Array(Vec::new()), "while {read} is read");
    }
    page.assert_nothing_went_wrong();
}

/// Cumulative Layout Shift: no act moves anything, not even what a click may move.
#[test]
fn acts_move_nothing_on_the_page() {
    for (width, height) in [(1440, 900), (390, 844)] {
        let server = Process::with("--lab --write-deadline 2s");
        let Some(page) = page(&format!("http://{}", server.addr)) else { return };
        page.resize(width, height);
        page.eval(
            "new Promise(painted => requestAnimationFrame(() => requestAnimationFrame(painted)))",
        );
        page.eval(
            "window.shifts = [];
            new PerformanceObserver(list => {
                const named = ({ node }) => node?.id || node?.parentElement?.outerHTML || 'a node';
                shifts.push(...list.getEntries().map(({ value, sources }) => [value, ...sources.map(named)]));
            }).observe({ type: 'layout-shift' });",
        );
        page.eval("setClients(120)");
        page.wait_until(
            "document.getElementById('clients-latency').textContent.includes('ms; lost: 0')",
        );
        for how in ["disk", "cpu"] {
            page.eval(&format!("document.querySelector('.slow[value={how}]').click()"));
            page.wait_until(
                "document.getElementById('slow-result').textContent.startsWith('5 of 5')",
            );
            page.wait_until(&format!("!document.querySelector('.slow[value={how}]').disabled"));
            page.eval("document.getElementById('slow-result').textContent = ''");
        }
        for to in ["wake", "direct"] {
            page.eval(&format!("document.querySelector('#delivery [value={to}]').click()"));
            page.wait_until(&format!(
                "document.getElementById('state').textContent.endsWith('{to}')"
            ));
        }
        page.eval("document.getElementById('stuck').click()");
        page.wait_until("document.getElementById('stuck-result').textContent.endsWith(' 1.')");
        page.eval("document.getElementById('reopen').click()");
        page.wait_until("document.getElementById('clients-result').textContent.startsWith('120 ')");
        page.eval("setClients(0)");
        page.wait_until("shown('clients') === 1");
        assert_eq!(page.eval("shifts"), Value::Array(Vec::new()), "at {width} pixels");
        page.assert_nothing_went_wrong();
    }
}

/// The threads that the picture shows.
const THREADS: &str = "parseInt(document.getElementById('threads-total').textContent)";

/// Shows a moment of the recording, by its number.
const SCRUB: &str = "
    window.scrub = moment => {
        const bar = document.getElementById('replay-scrub');
        bar.value = moment;
        bar.dispatchEvent(new Event('input'));
    };";

#[test]
fn picture_is_paused_scrubbed_and_played() {
    let server = Process::with("--lab");
    let Some(page) = page(&format!("http://{}", server.addr)) else { return };
    page.eval(SCRUB);
    page.wait_until("document.getElementById('replay-scrub').max >= 5");
    page.eval("setClients(60)");
    page.wait_until(&format!("{THREADS} > 60"));
    page.eval("document.getElementById('replay-play').click()");
    page.wait_until("document.getElementById('replay-play').textContent === 'Play'");
    page.eval("scrub(0)");
    assert!(number(&page, THREADS) < 60.0, "the clients were not open yet");
    page.eval("document.getElementById('replay-play').click()");
    page.wait_until("document.getElementById('replay-scrub').value >= 4");
    page.eval("document.getElementById('replay-slow').click()");
    page.wait_until("document.getElementById('replay-slow').ariaPressed === 'true'");
    let moment = "Number(document.getElementById('replay-scrub').value)";
    let (began, from) = (Instant::now(), number(&page, moment));
    page.wait_until(&format!("{moment} >= {from} + 2"));
    assert!(began.elapsed() > Duration::from_millis(900), "a tenth of the speed");
    page.eval("document.getElementById('replay-live').click()");
    page.wait_until(&format!("{THREADS} > 60"));
    assert_eq!(page.eval("document.getElementById('replay-time').textContent"), "live");
    page.assert_nothing_went_wrong();
}

#[test]
fn saved_recording_needs_no_server() {
    let server = Process::with("--lab");
    let Some(page) = page(&format!("http://{}", server.addr)) else { return };
    page.wait_until("document.getElementById('replay-scrub').max >= 5");
    page.eval("setClients(60)");
    page.wait_until(&format!("{THREADS} > 60"));
    let saved = page.eval(
        "new Promise(saved => {
            const create = URL.createObjectURL;
            URL.createObjectURL = file => {
                file.text().then(saved);
                return create.call(URL, file);
            };
            document.getElementById('replay-save').click();
        })",
    );
    drop(server);
    let file = format!("{}/saved-{}.html", env!("CARGO_TARGET_TMPDIR"), std::process::id());
    fs::write(&file, saved.as_str().expect("a page")).expect("a file");
    let saved = page.another(&format!("file://{file}"));
    saved.eval(SCRUB);
    saved.wait_until(&format!("{THREADS} > 60"));
    saved.eval("scrub(0)");
    assert!(number(&saved, THREADS) < 60.0, "the clients were not open yet");
    let drawn = "(() => {
        const canvas = document.getElementById('threads-canvas');
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        return data.some(value => value > 0);
    })()";
    assert_eq!(saved.eval(drawn), true);
    saved.assert_nothing_went_wrong();
    fs::remove_file(file).expect("it is ours");
}

/// Each drawing costs the browser about as much, and a canvas that has changed is copied whole.
#[test]
fn calm_picture_is_drawn_seldom_and_without_its_cells() {
    let server = Process::with("--lab");
    let Some(page) = page(&format!("http://{}", server.addr)) else { return };
    page.eval("import('./picture.js').then(module => { window.module = module; })");
    page.wait_until("window.module");
    let drawn = page.eval(
        "(() => {
            const { Model, Picture } = module, model = new Model(), picture = new Picture(model);
            model.names = ['broadcaster', ...Array(120).fill('sse-1')].map((name, id) => [id, name]);
            const frame = (at, threads) => ({
                at, threads, kinds: [['S', 'futex_do_wait'], ['D', 'io_schedule']], lane: null,
                clients: { clients: 120, silent_ms: 40 }, loop: { clients: 120, silent_ms: 40, dots: '120a' },
            });
            const apply = (at, threads) => model.apply(frame(at, threads), 25, []);
            apply(0, 'A120a');
            picture.draw(true);
            const pens = CanvasRenderingContext2D.prototype, { fillRect, fill } = pens;
            let at = 2_000;
            const drawn = threads => {
                const canvases = { 'threads-chips': 0, 'threads-canvas': 0, 'loop-lane': 0, 'loop-canvas': 0 };
                for (let n = 0; n < 16; n++) {
                    const changed = new Set();
                    pens.fillRect = pens.fill = function() { changed.add(this.canvas.id); };
                    apply(at += 100, threads);
                    picture.draw();
                    for (const id in canvases) canvases[id] += changed.has(id);
                }
                return Object.values(canvases);
            };
            const all = ['A120a', 'A50aA69a', 'A50ab69a'].map(drawn);
            Object.assign(pens, { fillRect, fill });
            return all;
        })()",
    );
    let of = |threads: usize| -> Vec<u64> {
        let counts = drawn[threads].as_array().expect("counts").iter();
        counts.map(|count| count.as_u64().expect("a count")).collect()
    };
    assert_eq!(of(0), [4, 0, 4, 0], "calm: chips, cells, lane, dots");
    let running = of(1);
    assert!(running[0] == 8 && running[1] >= 1, "a connection's thread runs: {running:?}");
    assert_eq!(of(2)[..2], [16, 16], "a thread waits for the disk");
}

/// A move of the bar costs a layout of the page.
#[test]
fn bar_below_the_picture_moves_at_most_once_a_second() {
    let server = Process::with("--lab");
    let Some(page) = page(&format!("http://{}", server.addr)) else { return };
    page.eval("import('./replay.js').then(module => { window.module = module; })");
    page.wait_until("window.module");
    let moves = page.eval(
        "(() => {
            const { Recording, replay } = module, recording = new Recording();
            const bar = replay(recording, { clear() {} }, { draw() {} }, true);
            const scrub = document.getElementById('replay-scrub');
            const moves = new MutationObserver(() => {});
            moves.observe(scrub, { attributeFilter: ['max'] });
            let at = 0;
            const arrive = frames => {
                moves.takeRecords();
                for (let n = 0; n < frames; n++) {
                    recording.push(JSON.stringify({ at: at += 100 }), [], 25, {});
                    bar.arrived();
                }
                return [moves.takeRecords().length, Number(scrub.max)];
            };
            return [arrive(100), arrive(1_100), arrive(100)];
        })()",
    );
    assert_eq!(moves, serde_json::json!([[10, 99], [110, 1_199], [0, 1_199]]));
}

#[test]
fn demo_page_and_live_view_link_to_each_other() {
    let server = TestServer::start();
    let Some(page) = Page::open(&format!("http://{}/", server.addr)) else { return };
    page.eval("document.querySelector('nav a[href=\"lab.html\"]').click()");
    page.wait_until(READY);
    page.eval("document.querySelector('nav a[href=\"./\"]').click()");
    page.wait_until("document.getElementById('panel-a')");
    page.wait_until("'ready' in document.documentElement.dataset");
}

/// Finds English words, as in `everybody.rs`.
const ENGLISH: &str = "(() => {
    const known = /^(threadcast|direct|wake|english|systemd|cpu|apache|node)$/;
    const found = [];
    const look = (text, where) => {
        for (const word of text.match(/[A-Za-z][A-Za-z.-]*[A-Za-z]{2}/g) ?? [])
            if (!known.test(word.toLowerCase())) found.push(`${word} in ${where}`);
    };
    const excluded = 'code, script, style, noscript, template, [lang=en], h1, th small';
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        if (!element.closest(excluded)) look(walker.currentNode.data, element.outerHTML.slice(0, 80));
    }
    for (const element of document.querySelectorAll('[aria-label]')) look(element.getAttribute('aria-label'), 'aria-label');
    look(document.title, 'title');
    return found;
})()";

#[test]
fn chinese_live_view_has_no_english_and_no_text_is_missing() {
    let server = lab();
    let Some(page) = page(&format!("http://{}", server.addr)) else { return };
    page.eval("setClients(10); document.getElementById('stuck').click(); \
        document.querySelector('.slow[value=disk]').click(); document.getElementById('table-toggle').click()");
    page.wait_until(
        "document.getElementById('clients-latency').textContent.includes('ms; lost: 0')",
    );
    page.wait_until("document.getElementById('stuck-result').textContent !== ''");
    page.wait_until("document.getElementById('slow-result').textContent.startsWith('5 of 5')");
    page.set("lang", "zh-Hans");
    page.wait_until("document.querySelector('#title-threads').textContent === '线程列表'");
    page.wait_until("document.getElementById('clients-latency').textContent.startsWith('已打开')");
    assert_eq!(page.eval(ENGLISH), Value::Array(Vec::new()));
    page.assert_same_texts("/live-en.js", "/live-zh.js");
    page.assert_nothing_went_wrong();
}

#[test]
fn live_view_fits_every_screen_in_both_languages() {
    let server = lab();
    let Some(page) = page(&format!("http://{}", server.addr)) else { return };
    page.eval("setClients(10); document.getElementById('table-toggle').click()");
    page.wait_until("document.getElementById('clients-latency').textContent.includes('lost: 0')");
    page.wait_until("document.querySelectorAll('#table tbody tr').length > 0");
    page.assert_fits_every_screen("#table-place, .skip, svg, #thread-list thead");
}

#[test]
fn axe_finds_nothing_serious_in_the_live_view() {
    let server = lab();
    let Some(page) = page(&format!("http://{}", server.addr)) else { return };
    let Some(axe) = axe() else { return };
    page.eval(&axe);
    page.eval("setClients(10); document.getElementById('stuck').click(); document.getElementById('table-toggle').click()");
    page.wait_until("document.getElementById('clients-latency').textContent.includes('lost: 0')");
    for (theme, lang) in [("light", "en"), ("dark", "en"), ("dark", "zh-Hans"), ("light", "en")] {
        page.set("theme", theme);
        page.set("lang", lang);
        page.assert_axe_finds_nothing(&format!("{theme} {lang}"));
        page.eval("location.hash = '#step-3'");
        page.wait_until("document.getElementById('tour-ask').textContent");
        page.assert_axe_finds_nothing(&format!("{theme} {lang}, in the tour"));
        page.eval("location.hash = ''");
        page.resize(360, 740); // all themes but the first are checked on a narrow page
    }
}

/// Measures the CPU time of the page's renderer process for ten seconds with a thousand clients.
#[test]
#[ignore = "needs an idle machine: `cargo test --test browser page::live -- --ignored --nocapture`"]
fn live_view_takes_less_than_5_percent_of_a_core() {
    let server = Process::with("--lab");
    let Some(page) = page(&format!("http://{}", server.addr)) else { return };
    page.resize(1440, 1000);
    page.eval("setClients(1000)");
    page.wait_until("shown('clients') >= 1001");
    // The charts are full after two minutes, so the test waits before it measures for ten seconds.
    let renderers = || -> Duration {
        let all = procfs::tree(std::process::id()).expect("/proc").into_iter();
        let chrome = all.filter(|pid| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains("--type="))
        });
        chrome.filter_map(|pid| procfs::usage(&[pid]).ok()).map(|usage| usage.cpu).sum()
    };
    let seconds = |count: u32| {
        page.eval(&format!("new Promise(done => setTimeout(done, {count} * 1000))"));
    };
    (0..11).for_each(|_| seconds(10));
    let (began, before) = (Instant::now(), renderers());
    seconds(10);
    let share = renderers().saturating_sub(before).as_secs_f64() / began.elapsed().as_secs_f64();
    say(&format!("the page takes {:.1} % of a core", share * 100.0));
    assert!(share < 0.05, "{share}");
}
