//! Channels that end: all tabs get every message and `ended`, and no tab reconnects.

use threadcast::Event;

use super::{MUTE, assert_connections, assert_got, blank, first, listen, publish, server};
use crate::common::TestServer;
use crate::driver::Page;

/// Subscribes two tabs, which count `ended`. Returns the leading tab first.
fn two_tabs(server: &TestServer) -> Option<[Page; 2]> {
    let page = first(server)?;
    let mut tabs = [page.another(&blank(server)), page];
    for tab in &tabs {
        listen(tab, "'news'", "{ since: 'all' }");
        tab.eval("window.ends = 0; client.addEventListener('ended', () => ends += 1)");
        tab.wait_until("client.readyState === 1");
    }
    // Without a heartbeat, a tab does not know for how long a leading tab may be silent, and would
    // wait half a minute for one that is mute.
    for tab in &tabs {
        tab.eval(
            "window.heartbeats = new BroadcastChannel(`threadcast ${client.url}`);
            heartbeats.onmessage = ({ data }) => { window.isStated ||= Boolean(data.timeout); };",
        );
        tab.wait_until("window.isStated");
    }
    if tabs[1].eval("client.leading") == true {
        tabs.reverse();
    }
    Some(tabs)
}

/// Publishes three messages and the end, an event whose type no tab listens for.
fn publish_all(server: &TestServer) {
    publish(&server.registry, 0..3);
    let end = Event::new("").with_name("done").expect("one line").with_end();
    server.registry.publish("news", &end).expect("the channel goes on");
}

#[test]
fn all_tabs_close_when_their_channel_has_ended() {
    let server = server();
    let Some(tabs) = two_tabs(&server) else { return };
    publish_all(&server);
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

/// The other tab takes the lead after the leading tab has ended, because it has heard nothing of it.
#[test]
fn a_tab_that_has_ended_stays_closed_when_another_takes_the_lead() {
    let server = server();
    let Some([leader, other]) = two_tabs(&server) else { return };
    leader.eval(MUTE);
    // The other tab would take the lead before the leading tab has ended.
    other.eval(
        "window.released = new Promise(resolve => { window.release = resolve; });
        const request = LockManager.prototype.request;
        LockManager.prototype.request = async function (...args) {
            await released;
            return request.apply(this, args);
        };",
    );
    publish_all(&server);
    leader.wait_until("client.readyState === 2");
    other.eval("release()");
    other.wait_until("client.leading && client.readyState === 2");
    assert_got(&other, 0..3);
    // Messages between two tabs arrive in order, so all before this one have arrived.
    leader.eval(
        "window.last = new BroadcastChannel(`threadcast ${client.url}`);
        last.onmessage = ({ data }) => { window.isLast = data.isLast };",
    );
    other.eval("new BroadcastChannel(`threadcast ${client.url}`).postMessage({ isLast: true })");
    leader.wait_until("window.isLast");
    for tab in [&leader, &other] {
        assert_eq!(tab.eval("`${ends} ${client.readyState}`"), "1 2");
    }
}

/// Another tab's end says nothing about the messages that the leading tab has not received.
#[test]
fn a_tab_that_takes_the_lead_after_the_end_gets_all_messages_first() {
    let server = server();
    let Some([leader, other]) = two_tabs(&server) else { return };
    // Only the end arrives, and a repetition of it as soon as the other tab leads.
    leader.eval(
        "window.post = BroadcastChannel.prototype.postMessage;
        BroadcastChannel.prototype.postMessage = function (message) {
            if (message.endsAfter === undefined) return;
            post.call(this, window.end = message);
        };
        window.repeat = new BroadcastChannel(`threadcast ${client.url}`);
        repeat.onmessage = ({ data }) => data.lead && post.call(repeat, end);",
    );
    publish_all(&server);
    other.wait_until("client.readyState === 2");
    assert_got(&other, 0..3);
    assert_eq!(other.eval("ends"), 1);
}
