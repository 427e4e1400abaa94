//! Decodes every event that one client receives, from a server of any make.

use super::body::{Rejected, Response};
use super::counted::{Seen, Stamp};
use super::events::{Decoder, Event};
use super::ids::{IdCheck, Ids};

/// What must be remembered between two reads of one client's stream.
#[derive(Debug)]
pub(super) struct Stream {
    response: Response,
    decoder: Decoder,
    ids: IdCheck,
    /// The number in the data of the newest event.
    newest: Option<u64>,
}

impl Stream {
    pub(super) fn new() -> Self {
        let (response, decoder, ids) = (Response::new(), Decoder::default(), IdCheck::default());
        Self { response, decoder, ids, newest: None }
    }

    pub(super) fn response(&self) -> &Response {
        &self.response
    }

    pub(super) fn ids(&self) -> &Ids {
        &self.ids.seen
    }

    pub(super) fn forget_ids(&mut self) {
        self.ids.seen = Ids::default();
    }

    /// Counts the events in the bytes of one read. Calls `stamped` with the stamp of each event that
    /// has one.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        mut stamped: impl FnMut(Stamp),
    ) -> Result<Seen, Rejected> {
        let Self { response, decoder, ids, newest } = self;
        let mut seen = Seen::default();
        let mut take = |event: &Event| {
            if is_gap(event) {
                seen.gaps += 1;
                return;
            }
            seen.events += 1;
            if let Some(id) = &event.id {
                ids.compare(id);
            }
            let Some(stamp) = event.data.as_deref().and_then(Stamp::at_start_of) else { return };
            if newest.is_some_and(|newest| stamp.number <= newest) {
                seen.repeated += 1;
                return;
            }
            *newest = Some(stamp.number);
            seen.stamped += 1;
            seen.oldest = seen.oldest.or(Some(stamp));
            seen.newest = Some(stamp);
            stamped(stamp);
        };
        response.feed(bytes, |data| decoder.feed(data, &mut take))?;
        Ok(seen)
    }
}

/// Whether this is the event with which threadcast reports lost events.
fn is_gap(event: &Event) -> bool {
    let missed = |data: &Vec<u8>| memchr::memmem::find(data, b"\"missed\":").is_some();
    event.name == b"gap" && event.data.as_ref().is_some_and(missed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
    const TIME: u64 = 1_795_228_590_121_000_000;

    fn feed(body: &str) -> (Seen, Ids, Vec<u64>) {
        let (mut stream, mut numbers) = (Stream::new(), Vec::new());
        let wire = format!("{HEAD}{body}");
        let seen = stream.feed(wire.as_bytes(), |stamp| numbers.push(stamp.number));
        (seen.expect("a stream"), *stream.ids(), numbers)
    }

    #[test]
    fn events_with_and_without_stamp_are_counted() {
        let body =
            format!("id: 1\r\ndata: hi\r\n\r\ndata: 4 {TIME} x\n\ndata: 5 {TIME}\n\n: x\n\n");
        let (seen, ids, numbers) = feed(&body);
        assert_eq!((seen.events, seen.stamped, seen.repeated, seen.gaps), (3, 2, 0, 0));
        assert_eq!((ids, numbers), (Ids::default(), vec![4, 5]));
        assert_eq!(seen.oldest, Some(Stamp { number: 4, published: TIME }));
    }

    #[test]
    fn repeated_stamp_is_counted_once() {
        let (seen, _, numbers) = feed(&format!("data: 4 {TIME} \n\ndata: 4 {TIME} \n\n"));
        assert_eq!((seen.events, seen.stamped, seen.repeated, numbers), (2, 1, 1, vec![4]));
    }

    #[test]
    fn gap_event_is_not_one_of_the_events() {
        let gap = "id: 7-20\nevent: gap\ndata: {\"channel\":\"a\",\"missed\":11}\n\n";
        let (seen, ids, _) = feed(&format!("id: 7-8\ndata: a\n\n{gap}id: 7-21\ndata: b\n\n"));
        assert_eq!((seen.events, seen.gaps, ids.missing), (2, 1, 12));
        let (seen, ..) = feed("event: gap\ndata: between teeth\n\n");
        assert_eq!((seen.events, seen.gaps), (1, 0));
    }
}
