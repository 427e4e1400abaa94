// threadcast's client, to take home: one connection for all tabs of an origin.
//
//   import { Threadcast } from './client.js';
//   const news = new Threadcast('news');
//   news.addEventListener('message', event => console.log(event.data));
//   news.addEventListener('gap', event => console.log('lost', event.detail.missed));
//
// It is used like an EventSource. A browser opens six HTTP/1.1 connections to an origin, all tabs together, so a
// seventh tab with an EventSource waits for ever. Here the tabs that listen to the same channels elect one that
// leads (Web Locks): it alone is connected, and tells the others (BroadcastChannel). When it is closed, another leads
// at once and resumes where its own events ended. Where a browser lacks either, each tab has its own EventSource.
//
// Nothing is lost or doubled: each message says after which it came. A tab that has not seen that one asks for
// what is between; one that has seen the event drops it. It needs ids, which every event of a channel has.
//
// Beyond EventSource: a watchdog (the server sends a `heartbeat`; a connection that misses it is made anew, which is
// what iOS needs, for it cuts streams silently), looks after itself when a laptop wakes up, backs off with jitter
// when the server is away, and `gap` events say what the server could not replay.

/**
 * @typedef {object} Options
 * @property {string} [url] Where the channels are; by default `/channels` of this page's origin.
 * @property {string} [since] Where the first tab begins: an id, `30s`, `10m` or `all`; by default now. A tab that joins
 *   later is given the last events that the leading one has.
 * @property {string} [lastEventId] The id after which to begin, if the page has kept one.
 * @property {boolean} [share] Whether tabs share a connection; by default they do.
 * @property {boolean} [withCredentials] As of EventSource.
 */

/**
 * A `gap` event's detail: what the server could not replay.
 * @typedef {object} Gap
 * @property {string} channel
 * @property {number | null} missed How many events; null if nobody knows.
 * @property {string} from
 * @property {string} to
 */

const CONNECTING = 0, OPEN = 1, CLOSED = 2;
const KEPT = 256;                    // how many events each tab keeps for one that missed some
const SEEN = 10_000;                 // how many ids are remembered
const PATIENCE = 2.5;                // heartbeats that may be missed before a connection counts as dead
const OURS = /^\d+-\d+$/;            // the server's ids, which have an order
const FIRST_WAIT = 1000, LONGEST_WAIT = 30_000;

/**
 * Listens to channels. Dispatches `open`, `error`, `message`, the named events that somebody listens to, `gap`
 * (a CustomEvent with a {@link Gap}) and `lead` (when this tab becomes the one that is connected).
 */
export class Threadcast extends EventTarget {
  static CONNECTING = CONNECTING;
  static OPEN = OPEN;
  static CLOSED = CLOSED;

  /** @type {0 | 1 | 2} As of EventSource; of a tab that follows, the leader's. */
  readyState = CONNECTING;
  /** @type {string} The id of the last event: what a reconnection goes on from. */
  lastEventId = '';
  /** @type {boolean} Whether this tab is the one that is connected. */
  leading = false;

  #me = Math.random().toString(36).slice(2);
  #url;
  #options;
  #source = null;                    // of the tab that leads
  #types = new Set(['message']);     // every tab's: the one that leads listens for all
  #kept = [];                        // the last messages
  #cursor = null;                    // the event that the connection began with, which is no message
  #seen = new Set();
  #patience = 60_000;                // until the first heartbeat says how often they come
  #heard = Date.now();
  #began = Date.now();
  #at = '';                          // where the connection is, maybe back for another tab: the id before the next event's
  #joining = false;                  // whether the leader's last events are still to come
  #asked = { id: null, at: 0 };
  #failures = 0;
  #retry;                            // a timer
  #watch = setInterval(() => this.#look(), 1000);
  #room = null;                      // the BroadcastChannel
  #end = new AbortController();

  /**
   * @param {string | string[]} channels One name or several; `chat*` is all that begin so.
   * @param {Options} [options]
   */
  constructor(channels, options = {}) {
    super();
    this.#options = options;
    this.#url = new URL(options.url ?? '/channels', location.href);
    for (const channel of [channels].flat().sort()) this.#url.searchParams.append('channel', channel);
    this.#url.searchParams.set('heartbeat', 'event');
    this.url = this.#url.href;
    this.lastEventId = options.lastEventId ?? '';
    const signal = this.#end.signal;
    addEventListener('online', () => this.#look(true), { signal });
    addEventListener('pageshow', event => event.persisted && this.#look(true), { signal });
    document.addEventListener('visibilitychange', () => document.hidden || this.#look(true), { signal });

    const shares = options.share !== false && navigator.locks && globalThis.BroadcastChannel;
    if (!shares) return this.#lead();
    this.#room = new BroadcastChannel(`threadcast ${this.url}`);
    this.#room.onmessage = ({ data }) => this.#told(data);
    this.#joining = Boolean(options.since);
    this.#hello();
    this.#stand();
  }

  /** Ends it for this tab; another one leads on if this one did. */
  close() {
    if (this.readyState === CLOSED && !this.#room && !this.#source) return;
    this.readyState = CLOSED;
    this.leading = false;
    this.#end.abort();               // gives the lock back, if it was held or waited for
    clearInterval(this.#watch);
    this.#disconnect();
    this.#room?.close();
    this.#room = null;
  }

  /** @override Whoever leads has to listen for the name too. */
  addEventListener(type, listener, options) {
    super.addEventListener(type, listener, options);
    if (['open', 'error', 'gap', 'lead'].includes(type) || this.#types.has(type)) return;
    this.#learn([type]);
    this.#tell({ types: [type] });
  }

  // The lead: whoever holds the lock. The browser gives it to the next as soon as a tab is gone.

  async #stand(steal = false) {
    const until = new Promise((_, reject) => {
      this.#end.signal.addEventListener('abort', () => reject(this.#end.signal.reason));
    });
    until.catch(() => {});           // it may be closed before anybody waits for this
    try {
      const how = steal ? { steal } : { signal: this.#end.signal };
      await navigator.locks.request(`threadcast ${this.url}`, how, () => {
        if (!this.#end.signal.aborted) this.#lead();
        return until;
      });
    } catch {
      if (this.#end.signal.aborted) return;
      this.leading = false;          // another tab took the lead from one that had been silent for too long
      this.#disconnect();
      this.#stand();
    }
  }

  #lead() {
    this.leading = true;
    this.#joining = false;
    this.#tell({ lead: true });
    this.dispatchEvent(new Event('lead'));
    this.#connect(this.lastEventId);
  }

  // The connection. One that is made anew goes on where the last one was.

  #connect(after = this.#at) {
    this.#disconnect();
    const url = new URL(this.#url);
    // Before its first connection a tab has no id to resume from, but it knows how long it has been waiting.
    if (after) url.searchParams.set('last_event_id', after);
    else url.searchParams.set('since', this.#options.since ?? `${Date.now() - this.#began}ms`);
    this.#at = after;
    const source = this.#source = new EventSource(url, { withCredentials: Boolean(this.#options.withCredentials) });
    this.#heard = Date.now();
    let spoke = false;
    this.#cursor = null;
    source.onopen = () => {
      spoke = true;
      this.#cursor = null;
      this.#is(OPEN);
    };
    source.onerror = () => {
      this.#is(CONNECTING);
      // From a server that has spoken, if only to refuse, the browser comes back by itself when its `retry` says. If
      // there is none, or the browser has given up, or has no id, we come back: later each time, and not all at once.
      const hasSpoken = spoke;
      spoke = false;
      if (source.readyState !== CLOSED && this.lastEventId && (hasSpoken || this.#failures++ === 0)) return;
      this.#disconnect();
      const wait = Math.min(FIRST_WAIT * 2 ** this.#failures++, LONGEST_WAIT) * (0.5 + Math.random());
      this.#retry = setTimeout(() => this.#connect(), wait);
    };
    source.addEventListener('heartbeat', ({ data }) => {
      this.#patience = Number(data) * PATIENCE || this.#patience;
      this.#failures = 0;
      this.#alive();
      this.#tell({ beat: this.#patience, at: this.#at });
    });
    source.addEventListener('cursor', event => this.#begin(event));
    for (const type of ['gap', ...this.#types]) this.#listen(type);
  }

  // A stream of channels begins with the id to resume from until an event has come, in an event named `cursor`. A
  // publisher's events may have that name too: only the first one of a connection is the server's.
  #begin(event) {
    if (this.#cursor) return;
    this.#cursor = event;
    if (this.#at) return;            // it is resumed already
    this.#at = event.lastEventId;
    this.lastEventId ||= this.#at;
    this.#tell({ at: this.#at });
  }

  #disconnect() {
    clearTimeout(this.#retry);
    this.#source?.close();
    this.#source = null;
  }

  #listen(type) {
    this.#source?.addEventListener(type, event => {
      if (event === this.#cursor) return;
      this.#cursor ??= event;        // a stream that begins with a gap has no cursor
      const { data, lastEventId, origin } = event;
      const id = lastEventId || this.#at;
      const message = { type, data, id, origin, after: this.#at };
      this.#at = id;
      this.#failures = 0;
      this.#tell({ message });       // also what this tab has seen: another may not have
      this.#take(message);
    });
  }

  #learn(types) {
    for (const type of types) {
      if (this.#types.has(type)) continue;
      this.#types.add(type);
      this.#listen(type);
    }
  }

  #is(readyState) {
    this.#alive();
    this.readyState = readyState;
    this.#tell({ readyState });
    this.dispatchEvent(new Event(readyState === OPEN ? 'open' : 'error'));
  }

  #alive() { this.#heard = Date.now(); }

  // A connection that has been silent for too long is dead, whatever the browser says; so is a leader.
  #look(woken = false) {
    const silence = Date.now() - this.#heard;
    const dead = silence > (woken ? this.#patience / 2 : this.#patience);
    if (this.leading) {
      if (dead && this.#source) this.#connect();
      return;
    }
    if (!this.#room) return;
    if (dead) {
      this.#alive();
      this.#stand(true);
    } else if (woken) {
      this.#ask();
    }
  }

  // What the tabs tell each other.

  #hello() { this.#tell({ hello: true, types: [...this.#types], wants: this.#joining }); }

  #tell(what) { this.#room?.postMessage({ ...what, from: this.#me }); }

  #told({ from, to, lead, hello, types, wants, readyState, beat, at, message, ask, again, back }) {
    if (to && to !== this.#me) return;
    if (types) this.#learn(types);
    if (lead && this.#joining) this.#hello();
    if (hello) {
      this.#tell({ to: from, types: [...this.#types] });
      if (this.leading) {
        const { readyState } = this;
        this.#tell({ to: from, readyState, beat: this.#patience, again: wants ? this.#kept : [], at: this.#at });
      }
    }
    if (beat) this.#patience = beat;
    if (beat || message || readyState !== undefined) this.#alive();
    if (again) {
      this.#joining = false;
      again.forEach(message => this.#take(message));
    }
    if (back) this.lastEventId = back;
    if (at) {
      this.lastEventId ||= at;
      if (this.lastEventId !== at) this.#ask();
    }
    // What comes before the last events have, is one of them.
    if (message && !this.#joining) this.#follow(message);
    if (ask !== undefined && this.leading && ask !== this.lastEventId) this.#answer(from, ask);
    if (readyState !== undefined && readyState !== this.readyState) {
      this.readyState = readyState;
      this.dispatchEvent(new Event(readyState === OPEN ? 'open' : 'error'));
    }
  }

  // A message of the leader's: if one is missing before it, that is asked for, and this one comes with it.
  #follow(message) {
    const whole = !this.lastEventId || !message.after || message.after === this.lastEventId;
    if (whole || this.#seen.has(key(message))) this.#take(message);
    else this.#ask();
  }

  #ask() {
    const id = this.lastEventId, now = Date.now();
    if (this.#asked.id === id && now - this.#asked.at < 2000) return;
    this.#asked = { id, at: now };
    this.#tell({ ask: id });
  }

  #answer(who, id) {
    const place = this.#kept.findIndex(message => message.id === id);
    if (place >= 0) this.#tell({ to: who, again: this.#kept.slice(place + 1) });
    else if (isBefore(this.#at, id)) this.#tell({ to: who, back: this.#at });  // nobody loses what it need not hear
    else if (id) this.#connect(id);  // it is long gone: the server has it, and whoever has seen it drops it
  }

  #take(message) {
    this.#alive();
    const id = key(message);
    if (this.#seen.has(id) || this.readyState === CLOSED) return;
    this.#seen.add(id);
    if (this.#seen.size > SEEN) this.#seen.delete(this.#seen.values().next().value);
    this.#kept.push(message);
    if (this.#kept.length > KEPT) this.#kept.shift();
    this.lastEventId = message.id;
    const { type, data, origin } = message;
    this.dispatchEvent(type === 'gap'
      ? Object.assign(new CustomEvent('gap', { detail: JSON.parse(data) }), { data, lastEventId: message.id })
      : new MessageEvent(type, { data, origin, lastEventId: message.id }));
  }
}

// Whether one id is known to come before another; a publisher's own ids have no order.
const isBefore = (one, other) => {
  if (!OURS.test(one) || !OURS.test(other)) return false;
  const [[time, place], [otherTime, otherPlace]] = [one, other].map(id => id.split('-').map(BigInt));
  return time < otherTime || (time === otherTime && place < otherPlace);
};

// What makes an event the same. A gap has the id that it goes on from, which may be an event's; a publisher's own id
// may be another's on another channel.
const key = ({ type, id, data }) => OURS.test(id) && type !== 'gap' ? id : `${id} ${type} ${data.slice(0, 200)}`;
