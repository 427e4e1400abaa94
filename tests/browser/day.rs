//! The page after a day's worth of events.

use crate::common::{TestServer, say};
use crate::driver::Page;
use threadcast::{Config, Event, Histories, History};

/// The number of events in a channel between two waits for the page. The histories keep as many, so
/// that no event is lost.
const BATCH: usize = 5_000;

/// Compares the tab's memory after 20,000 events with that after 100,000, shown in two panels.
#[test]
fn memory_stays_flat_over_100_000_events() {
    let history = History { events: BATCH, bytes: 16 << 20, ..History::default() };
    let history = Histories::all(history);
    let server = TestServer::with(Config { history, ..Config::default() });
    let Some(page) = Page::open_alone(&format!("http://{}/", server.addr)) else { return };
    page.click("a", "connect"); // closes it
    page.write("channel", "name", "flood");
    page.click("channel", "connect");
    page.click("i", "connect");
    page.wait_until("state('channel') === '1' && state('i') === '1'");
    page.eval(
        "window.inChannel = () => Number(part('channel', 'count').textContent.replaceAll(',', ''))",
    );
    page.eval("window.inChat = () => Number(part('i', 'count').textContent.replaceAll(',', ''))");
    let mut published = 0;
    let mut flood = |upto: u32| {
        while published < upto {
            for _ in 0..BATCH {
                published += 1;
                let event = Event::new(format!(
                    "{{\"username\":\"ada\",\"time\":\"\",\"text\":\"{published}\"}}"
                ));
                server.registry.publish("flood", &event).expect("a name");
                let event = event.with_name("usermessage").expect("one line");
                server.registry.publish("chat", &event).expect("a name");
            }
            page.wait_until(&format!("inChannel() === {published} && inChat() === {published}"));
        }
        page.memory()
    };
    let (few_bytes, few_nodes) = flood(10_000);
    let (many_bytes, many_nodes) = flood(50_000); // 100,000 events in two panels
    assert_eq!(page.eval("events('channel').length"), 200, "a list is capped");
    say(&format!("{few_bytes} → {many_bytes} bytes, {few_nodes} → {many_nodes} nodes"));
    assert!(many_bytes < few_bytes + 2e6, "{few_bytes} → {many_bytes} bytes");
    assert!(many_nodes < few_nodes + 2_000, "{few_nodes} → {many_nodes} nodes");
    page.assert_nothing_went_wrong();
}
