// The open streams and their members: the panels that read each. Panels with the same URL share one
// source. At most LIMIT streams are open, and a new one closes the oldest: of the six HTTP/1.1
// connections that a browser opens to an origin, two are left for pages and POSTs.

import { RawSource } from './raw.js';

export const LIMIT = 4;
export const CLOSED = 2;
export const budget = new EventTarget();        // dispatches `change` when a stream opens or closes

// Reports to the timeline what happens to each stream: dispatches `mark` with the detail { lane,
// name, dye, kind, event }. `kind` is open, lost, closed, event, replayed, gap or sent.
export const timelineEvents = new EventTarget();

const CURSOR = 'last_event_id';                 // the query parameter with the id to resume from
const streams = new Map();                      // by URL, the oldest first

// An event does not state whether it is replayed. The server replays without pauses, so events of a
// channel count as replayed until there is none for this time, in milliseconds.
const REPLAY_PAUSE = 50;

export function openStreams() {
  return [...streams.values()].map(stream => stream.names());
}

export function markTimeline(lane, name, dye, kind, event) {
  timelineEvents.dispatchEvent(new CustomEvent('mark', { detail: { lane, name, dye, kind, event } }));
}

// `source` creates another source than EventSource or RawSource. `isReplayed(event, openedAt)` knows
// better than REPLAY_PAUSE.
export function join(url, { withCredentials, raw, source, isReplayed }, member) {
  let stream = streams.get(url.href);
  if (!stream) {
    if (streams.size >= LIMIT) evictOldest(member);
    stream = new Stream(url, { withCredentials, raw, create: source, isReplayed });
    streams.set(url.href, stream);
  } else if (raw) {
    stream.read(true);
  }
  stream.add(member);
  changed();
  return stream;
}

class Stream {
  #members = new Map();                         // each with the AbortController of its listeners
  #source;
  #resumes;                                     // whether the next events may be replayed
  #lastId;                                      // the id that a new source resumes from
  #lane;
  #openedAt;
  #replayUntil = -Infinity;                     // when the replay ends, unless another event comes

  constructor(url, { withCredentials, raw, create, isReplayed }) {
    Object.assign(this, { url: url.href, withCredentials, raw, create, isReplayed });
    this.#lane = laneOf(url);
    this.#lastId = url.searchParams.get(CURSOR) ?? '';
    this.#resumes = this.#lastId !== '' || url.searchParams.has('since');
    // Resolved when the stream has an id to resume from. From then on, a lost connection loses no
    // event.
    this.begun = new Promise(begin => { this.begin = begin; });
    this.#open();
  }

  get readyState() { return this.#source.readyState; }

  get source() { return this.#source; }

  get lastId() { return this.#lastId; }

  names() { return [...this.#members.keys()].map(member => member.name).join(' + '); }

  add(member) {
    this.#listen(member);
    member.reading(this.raw, this.#source.readyState);
    if (this.#lastId) member.at?.(this.#lastId);
  }

  leave(member) {
    const last = this.#members.size === 1;
    if (last && this.#members.has(member)) this.#mark('closed');
    this.#members.get(member)?.abort();
    this.#members.delete(member);
    if (this.#members.size === 0) this.#close();
    changed();
  }

  // Listens to the member's types, which have changed.
  listenAgain(member) {
    this.#members.get(member).abort();
    this.#listen(member);
  }

  // Switches between EventSource and RawSource. The new source resumes a channel after the last
  // event; any other stream starts again from its beginning.
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
    if (this.#lastId && this.#cursor) {
      url.searchParams.delete('since');
      url.searchParams.set(this.#cursor, this.#lastId);
    }
    const own = !this.raw && this.create?.();
    const source = this.#source = own || new Source(url.href, options);
    // The event `cursor` is not a message: its id is the one to resume from until an event arrives.
    // A source that the panel has created handles this event itself.
    if (!own) source.addEventListener('cursor', event => this.#at(event.lastEventId));
    // These listeners must run before those of the members: a member may connect again as soon as
    // it is notified of the end.
    source.addEventListener('open', () => {
      this.#openedAt = performance.now();
      this.#replayUntil = this.#openedAt + REPLAY_PAUSE;
      this.#mark('open');
    });
    source.addEventListener('error', () => {
      this.#resumes = this.#lastId !== '';
      const closed = source.readyState === CLOSED;
      this.#mark(closed ? 'closed' : 'lost');
      if (closed) this.#close();
    });
  }

  // Returns the query parameter with the position to resume from, if the stream has one.
  get #cursor() {
    const { pathname } = new URL(this.url);
    return pathname.startsWith('/channels') ? CURSOR : pathname.startsWith('/v1/stream/') ? 'offset' : '';
  }

  get #isChannel() { return this.#cursor === CURSOR; }

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
    // Several members may receive the same event, but the timeline gets only one mark for it.
    if (event !== this.lastEvent) {
      this.lastEvent = event;
      this.lastIsReplayed = this.#isReplay(event);
      this.#mark(event.type === 'gap' ? 'gap' : this.lastIsReplayed ? 'replayed' : 'event', event);
      this.#at(event.lastEventId);
    }
    member.received(event, this.lastIsReplayed);
  }

  #isReplay(event) {
    if (!this.#resumes || !this.#isChannel || event.type === 'gap') return false;
    if (this.isReplayed) return this.isReplayed(event, this.#openedAt);
    const now = performance.now();
    if (now > this.#replayUntil) return false;
    this.#replayUntil = now + REPLAY_PAUSE;
    return true;
  }

  #mark(kind, event) {
    const [first] = this.#members.keys();
    if (first) markTimeline(this.#lane, this.names(), first.dye, kind, event);
  }
}

// Returns the name of a URL's lane in the timeline, so that a stream that is opened again continues in
// its lane.
function laneOf(url) {
  const lane = new URL(url);
  for (const name of [CURSOR, 'since', 'offset', 'presence', 'tab']) lane.searchParams.delete(name);
  return lane.href;
}

function evictOldest(member) {
  const [oldest] = streams.values();
  oldest.evict(['evicted', { name: member.name, limit: LIMIT }]);
}

function changed() {
  budget.dispatchEvent(new Event('change'));
}
