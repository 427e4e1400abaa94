//! Channels that end: all tabs get every message and `ended`, and no tab reconnects.

use threadcast::Event;

use super::{assert_connections, assert_got, blank, first, listen, publish, server};

#[test]
fn all_tabs_close_when_their_channel_has_ended() {
    let server = server();
    let Some(page) = first(&server) else { return };
    let tabs = [page.another(&blank(&server)), page];
    for tab in &tabs {
        listen(tab, "'news'", "{ since: 'all' }");
        tab.eval("window.ends = 0; client.addEventListener('ended', () => ends += 1)");
    }
    tabs.iter().for_each(|tab| tab.wait_until("client.readyState === 1"));
    publish(&server.registry, 0..3);
    // No tab listens for the type of the last event.
    let end = Event::new("").with_name("done").expect("one line").with_end();
    server.registry.publish("news", &end).expect("the channel goes on");
    for tab in &tabs {
        tab.wait_until("ends === 1 && client.readyState === 2");
        assert_got(tab, 0..3);
    }
    assert_connections(&server, 0);
    // A tab that opens later gets the history and the end too.
    let late = tabs[0].another(&blank(&server));
    listen(&late, "'news'", "{ since: 'all' }");
    late.eval("window.ends = 0; client.addEventListener('ended', () => ends += 1)");
    late.wait_until("client.readyState === 2");
    assert_got(&late, 0..3);
}
