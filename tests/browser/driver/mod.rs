//! Drives pages of the server in a real Chromium, with blocking calls.

#![allow(dead_code, unreachable_pub)] // each test program uses only some items

mod chromium;
pub mod turns;

use std::fs;
use std::path::PathBuf;
use std::process;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use headless_chrome::Tab;
use headless_chrome::protocol::cdp::Log::LogEntryLevel;
use headless_chrome::protocol::cdp::Target::CreateTarget;
use headless_chrome::protocol::cdp::types::Event;
use headless_chrome::protocol::cdp::{
    Emulation, HeapProfiler, Memory, Network, Page as Document, Runtime,
};
use serde_json::Value;

use self::chromium::{Chromium, browser};
use self::turns::Beside;
use crate::common::{pace, skip};

/// The maximum wait for a condition. Only a test that fails waits this long.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The time between two polls of a condition.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// A script that collects errors in `window.wrongs`. It runs before any script of the page.
const WATCH: &str = "
    window.wrongs = [];
    const wrong = (kind, text) => window.wrongs.push(`${kind}: ${text}`);
    addEventListener('error', e => wrong('error', e.message || e.target.outerHTML), true);
    addEventListener('unhandledrejection', e => wrong('rejection', e.reason));
    addEventListener('securitypolicyviolation',
        e => wrong('CSP', `${e.violatedDirective} ${e.blockedURI}`));
    for (const level of ['error', 'warn'])
        console[level] = (...words) => wrong(`console.${level}`, words.join(' '));";

/// A script that defines functions to read the panels of the demo page.
const HELPERS: &str = "
    window.part = (panel, role) =>
        document.querySelector(`#panel-${panel} [data-role=\"${role}\"]`);
    window.state = panel => part(panel, 'state').dataset.state;
    window.rows = (panel, role = 'log') => [...part(panel, role).children].map(row =>
        row.children.length === 0 ? row.textContent : Object.fromEntries(
            [['kind', row.dataset.kind],
             ...[...row.children].map(field => [field.dataset.field, field.textContent])]));
    window.events = panel => rows(panel).filter(row => row.kind === 'event');
    window.budget = () => document.getElementById('budget').dataset.open;";

/// An expression that is true when the demo page is ready.
const READY: &str = "'ready' in document.documentElement.dataset && part('a', 'state')";

/// A page in a window of its own.
pub struct Page {
    tab: Arc<Tab>,
    log: Arc<Mutex<Log>>,
    browser: Arc<Chromium>,
    _turn: Option<Arc<Beside>>,
}

/// What the browser reports about the page.
#[derive(Default)]
struct Log {
    requests: Vec<String>,
    wrongs: Vec<String>,
}

impl Page {
    /// Opens the demo page of an origin. If no browser is installed, prints a message and returns
    /// `None`.
    pub fn open(origin: &str) -> Option<Self> {
        Self::open_at(origin, READY)
    }

    /// Opens the demo page in a browser of its own, for tests that measure memory.
    ///
    /// In one browser, tabs of the same site share a process and its memory.
    pub fn open_alone(origin: &str) -> Option<Self> {
        Some(Self::tab(chromium::another()?).opened(origin, READY))
    }

    /// Opens any page and waits until the expression is true.
    pub fn open_at(url: &str, ready: &str) -> Option<Self> {
        Some(Self::tab(browser()?).opened(url, ready))
    }

    /// Opens another page in the same browser.
    pub fn another(&self, url: &str) -> Self {
        Self::tab(Arc::clone(&self.browser)).opened(url, "document.readyState === 'complete'")
    }

    /// Sets the size of the screen, in CSS pixels.
    pub fn resize(&self, width: u32, height: u32) {
        let mobile = width < 600;
        let call = Emulation::SetDeviceMetricsOverride {
            width,
            height,
            device_scale_factor: if mobile { 2.0 } else { 1.0 },
            mobile,
            scale: None,
            screen_width: None,
            screen_height: None,
            position_x: None,
            position_y: None,
            dont_set_visible_size: None,
            screen_orientation: None,
            viewport: None,
            display_feature: None,
            device_posture: None,
        };
        self.tab.call_method(call).expect("Chromium takes any size");
    }

    /// Asserts that no element is wider than the screen.
    ///
    /// Tests several screen widths, both text sizes and both languages.
    ///
    /// `may_scroll` is a selector of elements that scroll by themselves and are exempt.
    #[track_caller]
    pub fn assert_fits_every_screen(&self, may_scroll: &str) {
        let too_wide = format!(
            "(() => {{
                const wide = document.documentElement.clientWidth;
                return [...document.body.querySelectorAll('*')]
                    .filter(e => !e.closest({may_scroll:?}) && e.getBoundingClientRect().right > wide + 1)
                    .map(e => e.outerHTML.slice(0, 100));
            }})()"
        );
        for (width, size) in [(360, "normal"), (360, "large"), (1024, "normal"), (1920, "large")] {
            self.resize(width, 800);
            self.set("size", size);
            for lang in ["zh-Hans", "en"] {
                self.set("lang", lang);
                assert_eq!(self.eval(&too_wide), Value::Array(Vec::new()), "{width} {size} {lang}");
                assert_eq!(self.eval("document.documentElement.scrollWidth <= innerWidth"), true);
            }
        }
    }

    /// Asserts that axe-core, which the page has loaded, finds no serious problem.
    #[track_caller]
    pub fn assert_axe_finds_nothing(&self, theme: &str) {
        // While colours fade from one theme to another, the contrast is that of neither theme.
        self.finish_animations();
        let found = self.eval(
            "axe.run().then(({ violations }) => violations
                .filter(({ impact }) => ['serious', 'critical'].includes(impact))
                .map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map(node => node.html).join(' ')}`))",
        );
        assert_eq!(found, Value::Array(Vec::new()), "{theme}");
    }

    /// Asserts that both languages have the same keys and placeholders, and a text for each key
    /// that the page uses.
    #[track_caller]
    pub fn assert_same_texts(&self, english: &str, chinese: &str) {
        let missing = self.eval(&format!(
            "Promise.all([{english:?}, {chinese:?}].map(file => import(file))).then(([en, zh]) => {{
                const holds = text => [...text.matchAll(/\\{{(\\w+)\\}}/g)].map(match => match[1]).sort().join();
                const html = new Set([...document.querySelectorAll('*'),
                    ...[...document.querySelectorAll('template')].flatMap(t => [...t.content.querySelectorAll('*')])]
                    .flatMap(e => [e.dataset.t, e.dataset.tLabel]).filter(Boolean));
                return [
                    ...Object.keys(en.default).filter(key => holds(en.default[key]) !== holds(zh.default[key] ?? '')),
                    ...[...html].filter(key => !(key in zh.default)),
                    ...Object.keys(zh.default).filter(key => !(key in en.default) && !html.has(key)),
                ];
            }})"
        ));
        assert_eq!(missing, Value::Array(Vec::new()));
    }

    /// Changes one of the page's settings with a click.
    pub fn set(&self, setting: &str, value: &str) {
        self.eval(&format!(
            "document.querySelector('[data-setting={setting}] [value=\"{value}\"]').click()"
        ));
        let attribute = if setting == "lang" { "lang" } else { &format!("dataset.{setting}") };
        self.wait_until(&format!("document.documentElement.{attribute} === '{value}'"));
        // A page that is not in English has `data-wait` until it has loaded its texts.
        self.wait_until("!('wait' in document.documentElement.dataset)");
    }

    /// Takes a screenshot, as PNG.
    pub fn picture(&self) -> Vec<u8> {
        let png = Document::CaptureScreenshotFormatOption::Png;
        self.tab.capture_screenshot(png, None, None, true).expect("Chromium takes a screenshot")
    }

    /// Returns the page's memory after garbage collection: bytes of the script heap, and DOM nodes.
    ///
    /// One collection does not free all nodes, so this collects several times and returns the
    /// minimum of each value.
    pub fn memory(&self) -> (f64, u32) {
        let rounds = (0..5).map(|_| {
            self.tab
                .call_method(HeapProfiler::CollectGarbage(None))
                .expect("Chromium collects garbage");
            let heap = self.tab.call_method(Runtime::GetHeapUsage(None)).expect("it is known");
            let nodes = self.tab.call_method(Memory::GetDOMCounters(None)).expect("they count");
            (heap.used_size, nodes.nodes)
        });
        rounds.reduce(|least, next| (least.0.min(next.0), least.1.min(next.1))).expect("several")
    }

    fn opened(self, url: &str, ready: &str) -> Self {
        self.tab.navigate_to(url).expect("the server answers");
        self.wait_until(ready);
        self
    }

    fn tab(browser: Arc<Chromium>) -> Self {
        let turn = turns::beside();
        let tab =
            browser.driver().new_tab_with_options(in_a_window()).expect("the browser opens one");
        tab.set_default_timeout(TIMEOUT);
        let page = Self { tab, log: Arc::default(), browser, _turn: turn };
        page.watch();
        page
    }

    fn watch(&self) {
        let log = Arc::clone(&self.log);
        let listener = move |event: &Event| {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            match event {
                Event::NetworkRequestWillBeSent(event) => {
                    log.requests.push(event.params.request.url.clone());
                }
                Event::LogEntryAdded(event) => {
                    let entry = &event.params.entry;
                    if matches!(entry.level, LogEntryLevel::Error | LogEntryLevel::Warning) {
                        let url = entry.url.as_deref().unwrap_or_default();
                        log.wrongs.push(format!("browser: {} {url}", entry.text));
                    }
                }
                _ => {}
            }
        };
        let tab = &self.tab;
        tab.add_event_listener(Arc::new(listener)).expect("a listener more");
        tab.enable_log().expect("Chromium has a log");
        tab.call_method(Network::Enable {
            max_total_buffer_size: None,
            max_resource_buffer_size: None,
            max_post_data_size: None,
            report_direct_socket_traffic: None,
            enable_durable_messages: None,
        })
        .expect("Chromium reports requests");
        tab.call_method(Document::AddScriptToEvaluateOnNewDocument {
            source: format!("{WATCH}{HELPERS}"),
            world_name: None,
            include_command_line_api: None,
            run_immediately: None,
        })
        .expect("a script before all others");
    }

    /// Evaluates an expression in the page. For a promise, returns the value that it resolves to.
    pub fn eval(&self, expression: &str) -> Value {
        self.try_eval(expression).unwrap_or_else(|error| panic!("{expression}\n{error}"))
    }

    fn try_eval(&self, expression: &str) -> Result<Value, String> {
        let call = Runtime::Evaluate {
            expression: expression.to_owned(),
            return_by_value: Some(true),
            await_promise: Some(true),
            object_group: None,
            include_command_line_api: None,
            silent: None,
            context_id: None,
            generate_preview: None,
            user_gesture: Some(true),
            throw_on_side_effect: None,
            timeout: None,
            disable_breaks: None,
            repl_mode: None,
            allow_unsafe_eval_blocked_by_csp: None,
            unique_context_id: None,
            serialization_options: None,
        };
        let answer = self.tab.call_method(call).map_err(|error| error.to_string())?;
        match answer.exception_details {
            Some(thrown) => Err(format!("{:?}", thrown.exception.and_then(|e| e.description))),
            None => Ok(answer.result.value.unwrap_or_default()),
        }
    }

    /// Polls until the expression is true.
    ///
    /// An expression that throws counts as false: while the page is loading, its elements may not
    /// exist yet.
    #[track_caller]
    pub fn wait_until(&self, expression: &str) {
        let deadline = Instant::now() + TIMEOUT;
        let truth = format!("Boolean({expression})");
        while self.try_eval(&truth) != Ok(Value::Bool(true)) {
            if Instant::now() > deadline {
                let last = self.try_eval(expression);
                let page = self.try_eval("document.querySelector('main').innerText.slice(0, 2000)");
                let page = page.unwrap_or_default();
                panic!("never true: {expression}\nit is {last:?}, in\n{page}");
            }
            pace(POLL_EVERY);
        }
    }

    /// Finishes all animations.
    ///
    /// A busy machine draws seldom, and axe looks at once.
    #[track_caller]
    pub fn finish_animations(&self) {
        self.wait_until(
            "(document.getAnimations().forEach(fade => fade.finish()),
                document.getAnimations().length === 0)",
        );
    }

    /// Presses a key, which the focused element receives.
    pub fn press(&self, key: &str) {
        self.tab.press_key(key).expect("a key that keyboards have");
    }

    pub fn url(&self) -> String {
        self.tab.get_url()
    }

    /// Clicks the element with this `data-role` in a panel.
    #[track_caller]
    pub fn click(&self, panel: &str, role: &str) {
        self.eval(&format!("part('{panel}', '{role}').click()"));
    }

    /// Clicks an element as a user does, after scrolling to it: the browser counts what follows as
    /// the user's doing.
    #[track_caller]
    pub fn tap(&self, selector: &str) {
        self.tab.find_element(selector).and_then(|it| it.click().map(drop)).expect("it is there");
    }

    #[track_caller]
    pub fn write(&self, panel: &str, role: &str, text: &str) {
        let text = Value::from(text);
        self.eval(&format!("part('{panel}', '{role}').value = {text}"));
    }

    /// Returns how often the browser has requested this path since the page was opened.
    pub fn requests(&self, path: &str) -> usize {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.requests.iter().filter(|url| url.ends_with(path)).count()
    }

    /// Returns the errors so far, from the page and from the browser.
    pub fn wrongs(&self) -> Vec<String> {
        let errors = self.eval("window.wrongs");
        let errors = errors.as_array().expect("it is a list").iter();
        let mut wrongs: Vec<String> = errors.map(Value::to_string).collect();
        wrongs.extend_from_slice(&self.log.lock().expect("no listener panicked").wrongs);
        wrongs
    }

    /// Asserts that the page had no error except its own status 404.
    pub fn assert_only_the_missing_page_went_wrong(&self) {
        let others = |wrong: &String| !wrong.contains("404 (Not Found)");
        assert_eq!(self.wrongs().into_iter().find(others), None);
    }

    #[track_caller]
    pub fn assert_nothing_went_wrong(&self) {
        assert_eq!(self.wrongs(), Vec::<String>::new());
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // If the tab cannot be closed, it ends together with the browser.
        let _ = self.tab.close_target();
    }
}

/// A tab in a window of its own, so that its page is visible.
///
/// A page in the background releases its streams. `Emulation.setFocusEmulationEnabled` makes it visible as
/// well, but with it Chromium sometimes cancels the page's modules while they load.
fn in_a_window() -> CreateTarget {
    CreateTarget {
        url: "about:blank".to_owned(),
        new_window: Some(true),
        left: None,
        top: None,
        width: None,
        height: None,
        window_state: None,
        browser_context_id: None,
        enable_begin_frame_control: None,
        background: None,
        for_tab: None,
        hidden: None,
    }
}

/// Returns the source of axe-core, which npm fetches if needed. If npm is missing, prints a message
/// and returns `None`.
pub fn axe() -> Option<String> {
    let file = PathBuf::from("target/axe/node_modules/axe-core/axe.min.js");
    if !file.exists() {
        let made = process::Command::new("make").arg("axe").output();
        if !made.is_ok_and(|made| made.status.success()) || !file.exists() {
            skip("no axe-core; `make axe` fetches it with npm");
            return None;
        }
    }
    Some(fs::read_to_string(file).expect("it is text"))
}
