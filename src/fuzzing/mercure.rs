//! Fuzzes the form with which a Mercure publisher sends an update. The result is an update or an
//! error. If the update is encoded as a form again and that form is read, the result must be the
//! same update.

use form_urlencoded::Serializer;

use crate::http::mercure::publish::Form;
use crate::mercure::matcher::check_topic;
use crate::registry::NAME_MAX;

/// Reads a form, and checks the update or the error that results.
pub(super) fn check(bytes: &[u8]) {
    let form = match Form::read(bytes) {
        Ok(form) => form,
        Err(error) => {
            assert!(matches!(error.status(), 400 | 413) && !error.closes(), "{error}");
            return;
        }
    };
    assert!(!form.topics.is_empty(), "an update has a topic");
    let mut again = Serializer::new(String::new());
    for topic in &form.topics {
        assert!(topic.len() <= NAME_MAX && check_topic(topic).is_ok(), "{topic:?}");
        again.append_pair("topic", topic);
    }
    if form.private {
        again.append_pair("private", "on");
    }
    let retry = form.event.retry().map(|retry| retry.as_millis().to_string());
    for (name, value) in [
        ("data", Some(form.event.data())),
        ("id", form.event.id()),
        ("type", form.event.name()),
        ("retry", retry.as_deref()),
    ] {
        value.map(|value| again.append_pair(name, value));
    }
    assert_eq!(Form::read(again.finish().as_bytes()), Ok(form));
}
