//! Screenshots of the pages, for people to look at. `make screenshots` takes them, and the README
//! shows two of them.

use std::fs;
use std::path::Path;

use crate::common::{Process, TestServer, say};
use crate::driver::Page;
use threadcast::Config;

/// The folder of the screenshots. The two files below are those that the README shows.
const SCREENSHOTS: &str = "target/screenshots";
const README: &str = "docs/page.png";
const LIVE: &str = "docs/live.png";

#[test]
#[ignore = "writes screenshots; run `make screenshots`"]
fn demo_page_screenshots() {
    let config = Config { public: Some("public".into()), ..Config::default() };
    let server = TestServer::with_lab(config, None);
    let Some(page) = Page::open(&format!("http://{}/", server.addr)) else { return };
    fs::create_dir_all(SCREENSHOTS).expect("the target directory is ours");
    let save = |name: &str| {
        let path = Path::new(SCREENSHOTS).join(name).with_extension("png");
        fs::write(path, page.picture()).expect("the target directory is ours");
    };
    page.resize(1440, 900);
    page.set("theme", "light");
    cut(&page);
    fs::create_dir_all("docs").expect("the project is ours");
    page.resize(1320, 740);
    show(&page, "document.body");
    fs::write(README, page.picture()).expect("the project is ours");
    page.resize(1440, 900);
    fill_timeline(&page);
    for (name, theme, lang) in
        [("light", "light", "en"), ("dark", "dark", "en"), ("chinese", "light", "zh-Hans")]
    {
        page.set("theme", theme);
        page.set("lang", lang);
        show(&page, "document.body");
        save(name);
        for panel in ["b", "e", "g", "h", "channel"] {
            show(&page, &format!("document.getElementById('panel-{panel}')"));
            save(&format!("{name}-{panel}"));
        }
        show(&page, "document.querySelector('#panel-h table')");
        save(&format!("{name}-table"));
        show(&page, "document.getElementById('words')");
        save(&format!("{name}-words"));
        drawer(&page, true);
        show(&page, "document.body");
        save(&format!("{name}-drawer"));
        drawer(&page, false);
    }
    page.resize(360, 740);
    for (name, theme, lang) in [("phone", "light", "en"), ("phone-chinese", "dark", "zh-Hans")] {
        page.set("theme", theme);
        page.set("lang", lang);
        for place in ["body", "#panel-a", "#panel-h", "#panel-h table", "#panel-channel", "#words"]
        {
            show(&page, &format!("document.querySelector('{place}')"));
            save(&format!("{name}-{}", place.replace(['#', ' '], "")));
        }
        drawer(&page, true);
        show(&page, "document.body");
        save(&format!("{name}-drawer"));
        drawer(&page, false);
    }
    page.resize(1920, 1080);
    page.set("size", "large");
    page.set("lang", "en");
    show(&page, "document.body");
    save("lecture-hall");
}

#[test]
#[ignore = "writes screenshots; run `make screenshots`"]
fn live_view_screenshots() {
    let server = Process::with("--lab --public public");
    let url = format!("http://{}/lab.html", server.addr);
    let ready = "'ready' in document.documentElement.dataset && document.querySelector('#acts')";
    let Some(page) = Page::open_at(&url, ready) else { return };
    fs::create_dir_all(SCREENSHOTS).expect("the target directory is ours");
    let save = |name: &str| {
        let path = Path::new(SCREENSHOTS).join(format!("live-{name}.png"));
        fs::write(path, page.picture()).expect("the target directory is ours");
    };
    let seconds = |count: usize| {
        let line =
            "(document.querySelector('#chart-clients path[data-line]').getAttribute('d') ?? '')";
        let now = page.eval(&format!("{line}.split(/[ML]/).length"));
        let until = now.as_u64().expect("a number") + count as u64;
        page.wait_until(&format!("{line}.split(/[ML]/).length >= {until}"));
    };
    let act = |button: &str| page.eval(&format!("document.querySelector('{button}').click()"));
    page.resize(1440, 900);
    page.set("theme", "light");
    save("empty");
    page.eval(
        "const all = document.getElementById('clients-number'); all.value = 1000; \
         all.dispatchEvent(new Event('change'))",
    );
    seconds(30);
    save("rest");
    act(".slow[value=disk]");
    page.wait_until("document.querySelector('.slow[value=disk]').disabled");
    page.wait_until("!document.querySelector('.slow[value=disk]').disabled");
    // The recording shows the moment at which a thread waited for the disk, and all clients.
    act("#replay-play");
    let found = page.eval(
        "(() => {
            const bar = document.getElementById('replay-scrub');
            const shown = of => Number(document.querySelector(of).dataset.value);
            for (let moment = Number(bar.max); moment > bar.max - 50; moment--) {
                bar.value = moment;
                bar.dispatchEvent(new Event('input'));
                if (shown('#threads-legend [data-of=disk]') > 0 && shown('#loop-legend [data-of=silent]') > 990) return true;
            }
            return false;
        })()",
    );
    say(&format!("the moment was found: {found}"));
    page.eval("document.activeElement.blur()");
    save("disk");
    fs::write(LIVE, page.picture()).expect("the project is ours");
    act("#replay-live");
    seconds(3);
    act("#delivery [value=wake]");
    seconds(10);
    save("wake");
    page.set("theme", "dark");
    save("dark");
    page.set("lang", "zh-Hans");
    save("zh");
    page.resize(1920, 1080);
    page.set("size", "large");
    seconds(1);
    save("lecture-hall-zh");
    page.set("lang", "en");
    page.set("theme", "light");
    save("lecture-hall");
    page.set("size", "normal");
    page.resize(390, 844);
    seconds(1);
    let parts = ["#rail", "#picture", "[data-side=loop]", "#charts", "#threads"];
    for (name, theme, lang) in [("phone", "light", "en"), ("phone-zh", "dark", "zh-Hans")] {
        page.set("theme", theme);
        page.set("lang", lang);
        for part in parts {
            show(&page, &format!("document.querySelector('{part}')"));
            save(&format!("{name}-{}", part.trim_matches(['#', '[', ']'])));
        }
    }
}

/// Cuts the streams and waits until both have come back, and for some more events.
fn cut(page: &Page) {
    page.click("b", "connect");
    page.wait_until("events('a').length >= 8");
    page.eval("document.getElementById('cut').click()");
    page.wait_until("document.getElementById('step-resume').textContent !== ''");
    page.wait_until("rows('a').filter(row => row.type === 'open').length === 2");
    page.wait_until("events('a').length >= 20");
    page.eval("document.activeElement.blur()");
}

/// Fills the timeline until it shows every kind of mark.
fn fill_timeline(page: &Page) {
    drawer(page, true);
    page.click("g", "connect");
    page.wait_until("Number(part('break', 'ledger-received').textContent) >= 3");
    page.click("break", "retry-set");
    page.click("break", "gap");
    page.wait_until("part('break', 'ledger-lost').textContent !== '0' && state('break') === '1'");
    page.wait_until("Number(part('break', 'ledger-received').textContent) >= 6");
    page.click("break", "drop");
    page.wait_until("state('g') === '2'");
    page.click("e", "keep");
    page.click("e", "connect");
    page.wait_until("events('e').length >= 6 && events('a').length >= 4");
    page.click("break", "hide");
    page.eval("document.activeElement.blur()");
    page.eval("document.querySelector('#panel-b details').open = true");
    page.write("channel", "data", "it is written with curl");
    page.eval("part('channel', 'data').dispatchEvent(new Event('input', { bubbles: true }))");
}

fn drawer(page: &Page, open: bool) {
    page.eval("document.getElementById('break-open').blur()");
    page.eval(&format!(
        "if (document.getElementById('panel-break').hidden === {open}) \
         document.getElementById('break-open').click()"
    ));
}

/// Scrolls to an element and waits until the browser has painted it.
fn show(page: &Page, place: &str) {
    page.eval(&format!(
        "new Promise(painted => {{
            {place}.scrollIntoView({{ behavior: 'instant', block: 'start' }});
            requestAnimationFrame(() => requestAnimationFrame(painted));
        }})"
    ));
}
