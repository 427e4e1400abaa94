// The connection budget: which streams are open, who reads each, and which has to go.
//
// A browser opens at most six HTTP/1.1 connections to an origin, all its tabs together. Four streams leave
// two for pages, POSTs and one more tab's beginning. Panels that read the same URL share one source.
//
// A member is { name, dye, types, opened(), failed(readyState, reason), received(event, replayed), at(id), bytes(array),
// mark(text), reading(raw, readyState), evicted(why) }.

import { RawSource } from './raw.js';

export const LIMIT = 4;
export const CLOSED = 2;
export const budget = new EventTarget();        // dispatches `change`

// What happens to any stream, for the timeline: dispatches `mark`, detail { lane, name, dye, kind, event }.
// kind: open, lost, closed, event, replayed, gap, sent.
export const happenings = new EventTarget();

const streams = new Map();                      // by URL, the oldest first

// The wire does not say which event is a replay. What comes this soon after a stream came back was waiting for it.
const REPLAY_COMES_WITHIN = 250;

export function openStreams() {
  return [...streams.values()].map(stream => stream.names());
}

export function happened(lane, name, dye, kind, event) {
  happenings.dispatchEvent(new CustomEvent('mark', { detail: { lane, name, dye, kind, event } }));
}

export function join(url, { withCredentials, raw, source }, member) {
  let stream = streams.get(url.href);
  if (!stream) {
    if (streams.size >= LIMIT) evictTheOldestFor(member);
    stream = new Stream(url, { withCredentials, raw, make: source });
    streams.set(url.href, stream);
  } else if (raw) {
    stream.read(true);
  }
  stream.add(member);
  changed();
  return stream;
}

class Stream {
  #members = new Map();                         // each with what takes its listeners away
  #source;
  #resumes;                                     // whether what comes next may have been there before
  #lastId;                                      // what a source that is made anew resumes from
  #lane;
  #openedAt = -Infinity;

  constructor(url, { withCredentials, raw, make }) {
    Object.assign(this, { url: url.href, withCredentials, raw, make });
    this.#lane = laneOf(url);
    this.#resumes = url.searchParams.has('last_event_id') || url.searchParams.has('since');
    this.#lastId = url.searchParams.get('last_event_id') ?? '';
    // Resolved once a cut loses nothing: when there is an id to resume from.
    this.begun = new Promise(begin => { this.begin = begin; });
    this.#open();
  }

  get readyState() { return this.#source.readyState; }

  get source() { return this.#source; }

  names() { return [...this.#members.keys()].map(member => member.name).join(' + '); }

  add(member) {
    this.#listen(member);
    member.reading(this.raw, this.#source.readyState);
  }

  leave(member) {
    const last = this.#members.size === 1;
    if (last && this.#members.has(member)) this.#mark('closed');
    this.#members.get(member)?.abort();
    this.#members.delete(member);
    if (this.#members.size === 0) this.#close();
    changed();
  }

  // By EventSource, or by fetch so that the bytes can be seen. A source cannot change over: another one is made,
  // which resumes a channel after the last event, and starts anything else again.
  read(raw) {
    if (raw === this.raw) return;
    this.raw = raw;
    this.#resumes ||= this.#lastId !== '';
    this.#source.close();
    this.#open();
    for (const [member, listening] of [...this.#members]) {
      listening.abort();
      this.add(member);
    }
  }

  evict(why) {
    for (const member of [...this.#members.keys()]) {
      this.leave(member);
      member.evicted(why);
    }
  }

  #open() {
    const Source = this.raw ? RawSource : EventSource;
    const options = { withCredentials: this.withCredentials };
    const url = new URL(this.url);
    if (this.#lastId && url.pathname.startsWith('/channels')) url.searchParams.set('last_event_id', this.#lastId);
    const made = !this.raw && this.make?.();
    const source = this.#source = made || new Source(url.href, options);
    // No message: the id to resume from until one has come. What was made by others has its own way to resume.
    if (!made) source.addEventListener('cursor', event => this.#at(event.lastEventId));
    // Before the members': one that hears of the end may connect again at once.
    source.addEventListener('open', () => {
      this.#openedAt = this.#resumes ? performance.now() : -Infinity;
      this.#mark('open');
    });
    source.addEventListener('error', () => {
      this.#resumes = this.#lastId !== '';
      const closed = source.readyState === CLOSED;
      this.#mark(closed ? 'closed' : 'lost');
      if (closed) this.#close();
    });
  }

  #at(id) {
    this.#lastId = id;
    if (!id) return;
    this.begin();
    for (const member of this.#members.keys()) member.at?.(id);
  }

  #close() {
    this.#source.close();
    if (streams.get(this.url) === this) streams.delete(this.url);
    changed();
  }

  #listen(member) {
    const listening = new AbortController();
    const on = (type, listener) => this.#source.addEventListener(type, listener, { signal: listening.signal });
    this.#members.set(member, listening);
    on('open', () => member.opened());
    on('error', event => member.failed(this.#source.readyState, event.reason));
    on('bytes', event => member.bytes(event.detail));
    on('mark', event => member.mark(event.detail));
    for (const type of ['message', ...member.types]) on(type, event => this.#received(member, event));
  }

  #received(member, event) {
    const replayed = event.lastEventId !== '' && performance.now() - this.#openedAt < REPLAY_COMES_WITHIN;
    // Several members may hear it, and one that listens to more names may alone: it is one mark in any case.
    if (event !== this.lastEvent) {
      this.#mark(event.type === 'gap' ? 'gap' : replayed ? 'replayed' : 'event', event);
      this.#at(event.lastEventId);
    }
    this.lastEvent = event;
    member.received(event, replayed);
  }

  #mark(kind, event) {
    const [first] = this.#members.keys();
    if (first) happened(this.#lane, this.names(), first.dye, kind, event);
  }
}

// A stream that was closed and is resumed by its URL goes on in the same lane.
function laneOf(url) {
  const lane = new URL(url);
  for (const name of ['last_event_id', 'tab']) lane.searchParams.delete(name);
  return lane.href;
}

function evictTheOldestFor(member) {
  const [oldest] = streams.values();
  oldest.evict(['evicted', { name: member.name, limit: LIMIT }]);
}

function changed() {
  budget.dispatchEvent(new Event('change'));
}
