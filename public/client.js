// threadcast's client: one connection for all tabs of an origin. You may copy it.
//
//   import { Threadcast } from './client.js';
//   const news = new Threadcast('news');
//   news.addEventListener('message', event => console.log(event.data));
//   news.addEventListener('gap', event => console.log('lost', event.detail.missed));
//
// Use it like an EventSource. A browser opens at most six HTTP/1.1 connections to one origin, over
// all its tabs, so an EventSource in a seventh tab never connects. Here the tabs that listen to the
// same channels elect a leading tab (Web Locks). Only the leading tab is connected; it forwards the
// messages to the other tabs (BroadcastChannel). When the leading tab closes, another tab takes the
// lead at once and resumes after the last event that it has received. In a browser without Web
// Locks or BroadcastChannel each tab has its own EventSource.
//
// No message is lost or duplicated: each message carries the id of the message before it. A tab
// that has not received that id requests the messages in between. A tab that has already received a
// message drops the repetition. This needs an id on every event; the events of a channel have one.
//
// Further differences from EventSource:
// - A watchdog replaces a connection on which the server's `heartbeat` event is overdue. This is
//   needed on iOS, which cuts streams without an error.
// - The connection is checked when a laptop wakes up.
// - Reconnections to an unavailable server back off, with jitter.
// - `gap` events report what the server could not replay.
// - `ended` reports that all channels have ended. The state is then CLOSED, in all tabs.

/**
 * @typedef {object} Options
 * @property {string} [url] The address of the channels; default: `/channels` of this page's origin.
 * @property {string} [since] Where the first tab begins: an id, `30s`, `10m` or `all`; default:
 *   now. A tab that joins later gets the recent messages of the leading tab.
 * @property {string} [lastEventId] The id to resume after, if the page has stored one.
 * @property {boolean} [share] Whether tabs share a connection; default: true.
 * @property {boolean} [withCredentials] Whether to send cookies to another origin, as for
 *   EventSource; default: false.
 */

/**
 * The detail of a `gap` event: what the server could not replay.
 * @typedef {object} Gap
 * @property {string} channel
 * @property {number | null} missed How many events; null if unknown.
 * @property {string} from
 * @property {string} to
 */

const CONNECTING = 0, OPEN = 1, CLOSED = 2;
const RECENT = 256;                  // messages that each tab keeps for tabs that missed some
const SEEN = 10_000;                 // ids that each tab keeps to drop duplicates
const MISSED_HEARTBEATS = 1.8;       // so many silent periods mean that a connection is dead
const WOKEN = 0.7;                   // the part of that time that is enough after the computer has slept
const FIRST_TIMEOUT = 28_000;        // milliseconds of silence, until a heartbeat states the period
const SERVER_ID = /^\d+-\d+$/;       // an id from the server; such ids have an order
const FIRST_WAIT = 1000, LONGEST_WAIT = 30_000;    // milliseconds before a reconnection
const CHECK_TIME = 5000;             // milliseconds to find out whether the channels have ended

/**
 * Listens to channels. Dispatches `open`, `error`, `message`, named events that have a listener,
 * `gap` (a CustomEvent with a {@link Gap}), `lead` (when this tab becomes the leading tab) and
 * `ended` (when all channels have ended).
 */
export class Threadcast extends EventTarget {
  static CONNECTING = CONNECTING;
  static OPEN = OPEN;
  static CLOSED = CLOSED;

  /** @type {0 | 1 | 2} As in EventSource. Tabs that follow have the state of the leading tab. */
  readyState = CONNECTING;
  /** @type {string} The id of the last event, after which a reconnection resumes. */
  lastEventId = '';
  /** @type {boolean} Whether this tab is the leading tab, which is connected. */
  leading = false;

  #tabId = Math.random().toString(36).slice(2);
  #url;
  #options;
  #source = null;                    // the EventSource, in the leading tab
  #types = new Set(['message']);     // event types of all tabs; the leading tab listens for all
  #recent = [];                      // the last messages
  #cursorEvent = null;               // the first event of the connection, not a message
  #seen = new Set();
  #timeout;                          // milliseconds of silence that mean that a connection is dead
  #isStated = false;                 // whether a heartbeat has stated the period
  #lastActivity = Date.now();
  #createdAt = Date.now();
  // The id of the connection's last event, or the id after which the connection resumes. It may be
  // older than lastEventId.
  #position = '';
  #endsAfter = null;                 // the last id of channels that have ended
  #joining = false;                  // whether this tab waits for the recent messages
  #requested = { id: null, at: 0 };
  #failures = 0;
  #retryTimer;
  #watchdog;
  #tabs = null;                      // the BroadcastChannel
  #abort = new AbortController();

  /**
   * @param {string | string[]} channels One name or several; `chat*` matches every name that begins with `chat`.
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
    this.#allowSilence(FIRST_TIMEOUT);
    const signal = this.#abort.signal;
    addEventListener('online', () => this.#checkActivity(true), { signal });
    addEventListener('pageshow', event => event.persisted && this.#checkActivity(true), { signal });
    document.addEventListener('visibilitychange', () => document.hidden || this.#checkActivity(true), { signal });

    const shares = options.share !== false && navigator.locks && globalThis.BroadcastChannel;
    if (!shares) return this.#takeLead();
    this.#tabs = new BroadcastChannel(`threadcast ${this.url}`);
    this.#tabs.onmessage = ({ data }) => this.#receive(data);
    this.#joining = Boolean(options.since);
    this.#join();
    this.#requestLead();
  }

  /** Ends the subscription of this tab. If it was the leading tab, another tab takes the lead. */
  close() {
    if (this.readyState === CLOSED && !this.#tabs && !this.#source) return;
    this.readyState = CLOSED;
    this.leading = false;
    this.#abort.abort();             // releases the lock, or cancels the request for it
    clearInterval(this.#watchdog);
    this.#disconnect();
    this.#tabs?.close();
    this.#tabs = null;
  }

  /** @override Sends the type to the other tabs: the leading tab must listen for it too. */
  addEventListener(type, listener, options) {
    super.addEventListener(type, listener, options);
    if (['open', 'error', 'gap', 'lead', 'ended'].includes(type) || this.#types.has(type)) return;
    this.#addTypes([type]);
    this.#send({ types: [type] });
  }

  // Election of the leading tab. The tab that holds the lock leads; when it closes, the browser
  // gives the lock to the next tab.

  async #requestLead(steal = false) {
    const until = new Promise((_, reject) => {
      this.#abort.signal.addEventListener('abort', () => reject(this.#abort.signal.reason));
    });
    until.catch(() => {});           // close() may reject `until` before anything awaits it
    try {
      const how = steal ? { steal } : { signal: this.#abort.signal };
      await navigator.locks.request(`threadcast ${this.url}`, how, () => {
        if (!this.#abort.signal.aborted) this.#takeLead();
        return until;
      });
    } catch {
      if (this.#abort.signal.aborted) return;
      this.leading = false;          // another tab took the lead: this one was silent too long
      this.#disconnect();
      this.#requestLead();
    }
  }

  #takeLead() {
    this.leading = true;
    this.#joining = false;
    this.#send({ lead: true });
    this.dispatchEvent(new Event('lead'));
    if (this.readyState === CLOSED) return;
    this.#endsAfter = null;          // this tab finds out itself, when it has all messages
    this.#connect(this.lastEventId);
  }

  // The connection. A new connection resumes where the last one ended.

  #connect(after = this.#position) {
    this.#disconnect();
    const url = new URL(this.#url);
    // Without an id to resume from, the stream begins with the events since this object was
    // created.
    if (after) url.searchParams.set('last_event_id', after);
    else url.searchParams.set('since', this.#options.since ?? `${Date.now() - this.#createdAt}ms`);
    this.#position = after;
    const source = this.#source = new EventSource(url, { withCredentials: Boolean(this.#options.withCredentials) });
    this.#lastActivity = Date.now();
    let opened = false;
    this.#cursorEvent = null;
    source.onopen = () => {
      opened = true;
      this.#cursorEvent = null;
      this.#setReadyState(OPEN);
    };
    source.onerror = () => {
      this.#setReadyState(CONNECTING);
      // If the stream had opened, even as a rejection, the browser reconnects after the stream's
      // `retry`. Otherwise, or if the browser does not reconnect or has no id to resume from, this
      // code reconnects, with backoff and jitter.
      const hasOpened = opened;
      opened = false;
      if (source.readyState === CLOSED && this.#position) this.#checkEnd(url);
      if (source.readyState !== CLOSED && this.lastEventId && (hasOpened || this.#failures++ === 0)) return;
      this.#disconnect();
      const wait = Math.min(FIRST_WAIT * 2 ** this.#failures++, LONGEST_WAIT) * (0.5 + Math.random());
      this.#retryTimer = setTimeout(() => this.#connect(), wait);
    };
    source.addEventListener('heartbeat', ({ data }) => {
      const period = Number(data);
      if (period > 0) this.#heartbeatStated(period * MISSED_HEARTBEATS);
      this.#failures = 0;
      this.#noteActivity();
      this.#send({ timeout: this.#timeout, position: this.#position });
    });
    source.addEventListener('cursor', event => this.#storeCursor(event));
    for (const type of ['gap', ...this.#types]) this.#listen(type);
  }

  // Stores the id to resume from if the connection ends before its first message. A stream of
  // channels begins with an event named `cursor` that carries this id. Publishers may use the name
  // too, so only the first event counts.
  #storeCursor(event) {
    if (this.#cursorEvent) return;
    this.#cursorEvent = event;
    if (this.#position) return;      // the connection already resumes after a known id
    this.#position = event.lastEventId;
    this.lastEventId ||= this.#position;
    this.#send({ position: this.#position });
  }

  // Finds out whether the browser gave up because the channels have ended: an EventSource does not
  // show the status 204. The last event may have a type without a listener, which advances only
  // the browser's own cursor; so the rest of the stream is read to its last id.
  async #checkEnd(url) {
    const credentials = this.#options.withCredentials ? 'include' : 'same-origin';
    for (let id = this.#position, last; id !== last;) {
      url.searchParams.set('last_event_id', last = id);
      try {
        const signal = AbortSignal.timeout(CHECK_TIME);
        const response = await fetch(url, { credentials, cache: 'no-store', signal });
        if (response.status === 204) return this.#endAfter(this.#position);
        id = [...(await response.text()).matchAll(/^id: (.+)$/gm)].at(-1)?.[1] ?? last;
      } catch {
        return;                      // the server is unavailable, or the stream goes on
      }
    }
  }

  // Ends the subscription of all tabs, each once it has all messages.
  #endAfter(id) {
    if (this.readyState === CLOSED) return;
    this.#disconnect();
    this.#endsAfter = id;
    this.#send({ endsAfter: id });
    this.#end();
  }

  #endIfComplete() {
    if (this.#endsAfter === null || this.readyState === CLOSED) return;
    if (this.lastEventId === this.#endsAfter) this.#end();
    else this.#requestMissed();
  }

  #end() {
    clearInterval(this.#watchdog);
    this.readyState = CLOSED;
    this.dispatchEvent(new Event('ended'));
  }

  #disconnect() {
    clearTimeout(this.#retryTimer);
    this.#source?.close();
    this.#source = null;
  }

  #listen(type) {
    this.#source?.addEventListener(type, event => {
      if (event === this.#cursorEvent) return;
      this.#cursorEvent ??= event; // a stream that begins with a gap has no cursor event
      const { data, lastEventId, origin } = event;
      const id = lastEventId || this.#position;
      const message = { type, data, id, origin, after: this.#position };
      this.#position = id;
      this.#failures = 0;
      this.#send({ message });       // even if this tab has seen it: another tab may not have
      this.#deliver(message);
    });
  }

  #addTypes(types) {
    for (const type of types) {
      if (this.#types.has(type)) continue;
      this.#types.add(type);
      this.#listen(type);
    }
  }

  #setReadyState(readyState) {
    this.#noteActivity();
    this.readyState = readyState;
    this.#send({ readyState });
    this.dispatchEvent(new Event(readyState === OPEN ? 'open' : 'error'));
  }

  #noteActivity() { this.#lastActivity = Date.now(); }

  #heartbeatStated(timeout) {
    if (this.readyState === CLOSED) return;
    this.#isStated = true;
    this.#allowSilence(timeout);
  }

  // Sets after how much silence a connection is dead. The watchdog looks so often that a tab replaces
  // a frozen leading tab within two heartbeats.
  #allowSilence(timeout) {
    if (timeout === this.#timeout) return;
    this.#timeout = timeout;
    clearInterval(this.#watchdog);
    this.#watchdog = setInterval(() => this.#checkActivity(), Math.min(1000, timeout / 10));
  }

  // Replaces a connection that has been silent for too long, even if the browser reports it as
  // open. In the same way another tab replaces a leading tab that has been silent.
  #checkActivity(woken = false) {
    if (this.readyState === CLOSED) return;
    const silence = Date.now() - this.#lastActivity;
    const dead = silence > (woken ? this.#timeout * WOKEN : this.#timeout);
    // The period may be longer than FIRST_TIMEOUT: wait twice as long for the next first heartbeat.
    if (dead && !woken && !this.#isStated) this.#allowSilence(this.#timeout * 2);
    if (this.leading) {
      if (dead && this.#source) this.#connect();
      return;
    }
    if (!this.#tabs) return;
    if (dead) {
      this.#noteActivity();
      this.#requestLead(true);
    } else if (woken) {
      this.#requestMissed();
    }
  }

  // Messages between the tabs.

  #join() { this.#send({ hello: true, types: [...this.#types], wantsRecent: this.#joining }); }

  #send(fields) { this.#tabs?.postMessage({ ...fields, from: this.#tabId }); }

  #receive({ from, to, lead, hello, types, wantsRecent, readyState, timeout, position, message, missedAfter, recent, rewindTo, endsAfter }) {
    if (to && to !== this.#tabId) return;
    if (types) this.#addTypes(types);
    if (lead && this.#joining) this.#join();
    if (hello) {
      this.#send({ to: from, types: [...this.#types] });
      if (this.leading) {
        const { readyState } = this;
        const recent = wantsRecent ? this.#recent : [];
        const endsAfter = this.#endsAfter ?? undefined;
        const state = endsAfter === undefined ? readyState : undefined;
        const stated = this.#isStated ? this.#timeout : undefined;
        this.#send({ to: from, readyState: state, timeout: stated, recent, position: this.#position, endsAfter });
      }
    }
    if (timeout) this.#heartbeatStated(timeout);
    if (timeout || message || readyState !== undefined) this.#noteActivity();
    if (recent) {
      this.#joining = false;
      recent.forEach(message => this.#deliver(message));
    }
    if (rewindTo) this.lastEventId = rewindTo;
    if (position) {
      this.lastEventId ||= position;
      if (this.lastEventId !== position) this.#requestMissed();
    }
    // While this tab joins, it ignores a message: it will get the message again among the recent
    // messages.
    if (message && !this.#joining) this.#deliverInOrder(message);
    if (endsAfter !== undefined && !this.leading) {
      this.#endsAfter = endsAfter;
      this.lastEventId ||= endsAfter;
    }
    if (!this.leading) this.#endIfComplete();
    if (missedAfter !== undefined && this.leading && missedAfter !== this.lastEventId) this.#resend(from, missedAfter);
    // The state of another tab that led or leads is not the state of a tab that leads or has ended.
    if (this.leading || this.readyState === CLOSED) return;
    if (readyState !== undefined && readyState !== this.readyState) {
      this.readyState = readyState;
      this.dispatchEvent(new Event(readyState === OPEN ? 'open' : 'error'));
    }
  }

  // Delivers a message from the leading tab, unless messages before it are missing. In that case
  // this tab requests the missing messages, and gets this message again with them.
  #deliverInOrder(message) {
    const isNext = !this.lastEventId || !message.after || message.after === this.lastEventId;
    if (isNext || this.#seen.has(key(message))) this.#deliver(message);
    else this.#requestMissed();
  }

  #requestMissed() {
    const id = this.lastEventId, now = Date.now();
    if (this.#requested.id === id && now - this.#requested.at < 2000) return;
    this.#requested = { id, at: now };
    this.#send({ missedAfter: id });
  }

  // Sends a tab the messages after an id. If this tab no longer has them, it reconnects and gets
  // them from the server; tabs that have seen a message drop it. A tab that is ahead of the
  // connection goes back to the connection's position.
  #resend(tab, id) {
    const index = this.#recent.findIndex(message => message.id === id);
    if (index >= 0) this.#send({ to: tab, recent: this.#recent.slice(index + 1) });
    else if (isBefore(this.#position, id)) this.#send({ to: tab, rewindTo: this.#position });
    else if (id && this.readyState !== CLOSED) this.#connect(id);
  }

  #deliver(message) {
    this.#noteActivity();
    const id = key(message);
    if (this.#seen.has(id) || this.readyState === CLOSED) return;
    this.#seen.add(id);
    if (this.#seen.size > SEEN) this.#seen.delete(this.#seen.values().next().value);
    this.#recent.push(message);
    if (this.#recent.length > RECENT) this.#recent.shift();
    this.lastEventId = message.id;
    const { type, data, origin } = message;
    this.dispatchEvent(type === 'gap'
      ? Object.assign(new CustomEvent('gap', { detail: JSON.parse(data) }), { data, lastEventId: message.id })
      : new MessageEvent(type, { data, origin, lastEventId: message.id }));
  }
}

// Returns whether one id is known to be before another. Client-supplied ids have no order.
const isBefore = (one, other) => {
  if (!SERVER_ID.test(one) || !SERVER_ID.test(other)) return false;
  const [[epoch, number], [otherEpoch, otherNumber]] = [one, other].map(id => id.split('-').map(BigInt));
  return epoch < otherEpoch || (epoch === otherEpoch && number < otherNumber);
};

// Returns the key by which duplicates are recognized. The id alone is not enough for a gap, which
// carries the id of the event before it, nor for a client-supplied id, which may occur on another
// channel too.
const key = ({ type, id, data }) => SERVER_ID.test(id) && type !== 'gap' ? id : `${id} ${type} ${data.slice(0, 200)}`;
