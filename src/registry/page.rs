//! Pages of one channel's history, for readers that want a finite answer instead of a stream.
//!
//! Under the lock, only references to the events of one page are copied. Each event is decoded
//! later, while the answer is sent.

use std::sync::Arc;
use std::time::Duration;

use super::channels::{Channels, StreamAccess};
use super::history::{Entry, Ring};
use super::lock::Registry;
use super::read::{self, Start};
use super::state::{Channel, HubState};
use super::subscription;
use crate::event::Frame;
use crate::id::EventId;

/// Which events of a channel's history a page has.
#[derive(Debug)]
pub(crate) struct PageRequest {
    /// The page has only events after this start. If the start is unknown, this is the start of the
    /// history.
    pub(crate) start: Start,
    /// The page has the newest events up to here; `None` if it has the oldest events after `start`.
    pub(crate) before: Option<Before>,
    /// The maximum number of events.
    pub(crate) events: usize,
    /// The maximum size of the events in a stream, in bytes. The first event is always on the page.
    pub(crate) bytes: usize,
}

/// Where a page ends that has the newest events of a history.
#[derive(Debug)]
pub(crate) enum Before {
    /// At the end of the history.
    Now,
    /// Before the event with this id.
    Event(String),
}

/// A page of a channel's history.
#[derive(Debug)]
pub(crate) struct Page {
    /// The events, in the order of their ids.
    pub(crate) events: Vec<PageEvent>,
    /// The events that the history no longer has, between the previous page and the end of this
    /// page.
    pub(crate) gap: Option<PageGap>,
    /// The cursor after this page.
    pub(crate) next: EventId,
    /// Whether the history has further events: before the page if the request has `before`, and
    /// otherwise after the page.
    pub(crate) more: bool,
    /// The channel's last event, if the channel has ended.
    pub(crate) end: Option<EventId>,
    /// For how long the history's age limit allows the page's first event.
    pub(crate) fresh_for: Duration,
}

/// An event on a page.
#[derive(Debug, Clone)]
pub(crate) struct PageEvent {
    pub(crate) id: EventId,
    /// The client-supplied id.
    pub(crate) own: Option<Arc<str>>,
    /// The time of publishing, since 1970.
    pub(crate) at: Duration,
    pub(crate) frame: Frame,
}

/// Events that a history no longer has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PageGap {
    /// The number of events; `None` if it is unknown.
    pub(crate) missed: Option<u64>,
    /// The id after which the events were lost; `None` for the beginning.
    pub(crate) from: Option<String>,
    /// The newest lost event, if it is known.
    pub(crate) to: Option<EventId>,
}

/// Reads a page: see [`Registry::page`].
pub(super) fn page(
    registry: &Registry,
    channels: &Channels,
    request: &PageRequest,
) -> Option<Page> {
    let after = if let Start::After(id) = &request.start { Some(id) } else { None };
    let before = if let Some(Before::Event(id)) = &request.before { Some(id) } else { None };
    for id in after.into_iter().chain(before) {
        subscription::await_client_id(registry, channels, id);
    }
    let mut access = StreamAccess::default();
    loop {
        let page = registry.lock().history_page(channels, request, registry.now(), &mut access);
        if !access.has_pending() {
            return page;
        }
        access.resolve(channels);
    }
}

impl HubState {
    /// Reads a page. The result is final only if `access` has no pending check.
    fn history_page(
        &self,
        channels: &Channels,
        request: &PageRequest,
        now: Duration,
        access: &mut StreamAccess,
    ) -> Option<Page> {
        let PageRequest { start, before, events, bytes } = request;
        let name = channels.names.first()?;
        let channel = self.channels.get(name);
        let absent = Ring::new(self.floor);
        let ring = channel.map_or(&absent, |channel| &channel.ring);
        let beginning = self.begin(channels, start, now, access);
        let is_unknown = !beginning.unknown.is_empty();
        let is_whole = matches!(start, Start::All) || is_unknown;
        let (after, known) = match beginning.position {
            _ if is_whole => (EventId::ZERO, EventId::ZERO),
            position => (position.after, position.known),
        };
        let upto = match before {
            None | Some(Before::Now) => self.last.max(after),
            Some(Before::Event(id)) => self.find(channels, id, now, access)?.before(),
        };

        let mut taken = Taken { events: Vec::new(), bytes: 0, more: None };
        let (first, end) = (ring.place_after(after), ring.place_after(upto));
        let mut places: Box<dyn Iterator<Item = usize>> = match before {
            None => Box::new(first..end),
            Some(_) => Box::new((first..end).rev()),
        };
        let readable = places.by_ref().filter_map(|place| ring.get(place));
        let readable = readable.filter(|entry| access.may_read(channels, entry.private.as_ref()));
        for entry in readable {
            if !taken.take(entry, *events, *bytes) {
                break;
            }
        }
        let Taken { events: mut page, more, .. } = taken;
        if before.is_some() {
            page.reverse();
        }

        let (from, to) = match (before, more) {
            (None, Some(_)) => (after, page.last().map_or(after, |event| event.id)),
            (Some(_), Some(older)) => (older, upto),
            (_, None) => (after, upto),
        };
        let lost = read::lost_of(channels, name, ring, access);
        let missed =
            lost.between(from, to).filter(|_| from > EventId::ZERO || lost.are_of_the_channel());
        let gap = match (start, missed) {
            (Start::After(id), _) if is_unknown && from == EventId::ZERO => {
                Some(PageGap { missed: None, from: Some(id.clone()), to: missed.map(|it| it.to) })
            }
            (_, None) => None,
            (_, Some(missed)) => {
                // `after` may be the id of a private event, so name `known` instead.
                let from = if from == after { known } else { from };
                let from = (from > EventId::ZERO).then(|| from.to_string());
                Some(PageGap { missed: missed.count, from, to: Some(missed.to) })
            }
        };
        let newest = page.last().map_or(EventId::ZERO, |event| event.id);
        let next = match (before, more) {
            (None, None) => newest.max(known).max(missed.map_or(EventId::ZERO, |missed| missed.to)),
            _ => newest.max(known),
        };
        let next = match next {
            EventId::ZERO => self.last_known(channels).max(self.first_cursor()),
            next => next,
        };
        let age = channel.map_or(Duration::ZERO, |channel| channel.history.age);
        let first = page.first().map(|event| now.saturating_sub(event.at));
        let fresh_for = first.map_or(Duration::ZERO, |old| age.saturating_sub(old));
        let end = channel.and_then(Channel::end);
        Some(Page { events: page, gap, next, more: more.is_some(), end, fresh_for })
    }
}

/// The events that were taken for a page so far.
struct Taken {
    events: Vec<PageEvent>,
    bytes: usize,
    /// The first event that did not fit.
    more: Option<EventId>,
}

impl Taken {
    /// Takes an event, and returns whether it fits.
    fn take(&mut self, entry: &Entry, events: usize, bytes: usize) -> bool {
        let size = self.bytes + entry.frame.len();
        if !self.events.is_empty() && (self.events.len() >= events || size > bytes) {
            self.more = Some(entry.id);
            return false;
        }
        self.bytes = size;
        let own = entry.dedup.as_ref().and_then(|dedup| dedup.own.clone());
        let (id, at, frame) = (entry.id, entry.at, entry.frame.clone());
        self.events.push(PageEvent { id, own, at, frame });
        true
    }
}
