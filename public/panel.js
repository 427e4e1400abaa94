// A panel: the controls of one stream, and the view of its events and bytes. Until it is connected
// or its heading is clicked, it is one line.

import { address } from './lab.js';
import { append, ByteView, empty, row, settle } from './log.js';
import { join, CLOSED } from './streams.js';
import { duration, number, textSpan, setText } from './words.js';

export class Panel {
  constructor(id, template) {
    this.root = document.getElementById(`panel-${id}`);
    this.name = this.root.dataset.name;
    this.dye = this.root.closest('[data-dye]')?.dataset.dye;
    const controls = document.getElementById(template).content.cloneNode(true);
    (this.root.querySelector('[data-slot]') ?? this.root).prepend(controls);
    this.on('connect', 'click', () => this.connected ? this.close() : this.connect());
    this.on('clear', 'click', () => this.clear());
  }

  part(role) { return this.root.querySelector(`[data-role="${role}"]`); }

  on(role, type, listener) { this.part(role).addEventListener(type, listener); }

  state(readyState, words = 'state') {
    setText(this.part('state'), `${words}.${readyState}`);
    this.part('state').dataset.state = this.root.dataset.live = readyState;
    setText(this.part('connect'), readyState < CLOSED ? 'close' : 'connect');
    if (readyState < CLOSED) unfold(this.root.closest('.panel'));
  }

  // Shows sentences. Each is the key of a text, or an array of a key and the values in that text.
  note(...sentences) {
    const all = sentences.filter(Boolean).map(one => Array.isArray(one) ? textSpan(...one) : textSpan(one));
    this.part('note').replaceChildren(...all.flatMap(one => [one, ' ']).slice(0, -1));
  }

  log(kind, fields) { append(this.part('log'), row(kind, fields)); }

  clear() {
    for (const role of ['log', 'list']) if (this.part(role)) empty(this.part(role));
    this.part('answer')?.replaceChildren();
    this.note();
  }
}

// Shows all of a panel, or only its first line.
export function unfold(card, open = true) {
  if (!card) return;
  card.toggleAttribute('data-open', open);
  card.querySelector('.fold').setAttribute('aria-expanded', open);
  if (open) card.dispatchEvent(new Event('unfold'));
}

export class StreamPanel extends Panel {
  #stream = null;
  #bytes;
  #count = 0;
  #lostAt;
  #opened;                                      // whether the stream has opened since connect()

  // `types` are the named events to listen for, besides `message`; see streams.js for `source` and
  // `isReplayed`. The panel calls onconnect, onevent, onid and onclose; onrejected if a stream closes
  // before it opens; onended if the server has ended an open stream for good.
  constructor(id, { types = [], withCredentials = false, ...options }) {
    super(id, 'stream-controls');
    Object.assign(this, { types, withCredentials, ...options });
    this.#bytes = new ByteView(this.part('raw'));
    this.on('raw-toggle', 'change', () => {
      const raw = this.part('raw-toggle').checked;
      if (this.#stream) this.#stream.read(raw);
      else this.#show(raw);
    });
  }

  get connected() { return this.#stream !== null; }

  get stream() { return this.#stream; }

  connect(route = typeof this.route === 'function' ? this.route() : this.route) {
    if (this.#stream) return;
    this.note();
    this.#opened = false;
    this.part('last-id').textContent = '';
    let url;
    try {
      url = address(route);
    } catch {
      return this.note('no-url');
    }
    const raw = this.part('raw-toggle').checked;
    const source = this.source && (() => this.source(url));
    const { withCredentials, isReplayed } = this;
    this.#stream = join(url, { withCredentials, raw, source, isReplayed }, this);
    this.onconnect?.(this);
  }

  close(...why) {
    if (!this.#stream) return;
    const stream = this.#stream;
    this.#end();
    stream.leave(this);
    this.log('state', { type: 'close()', data: 'readyState 2' });
    settle();
    this.note(...why, stream.readyState === CLOSED ? null : ['shared', { names: stream.names() }]);
  }

  // Listens for these named events from now on.
  listen(types) {
    this.types = types;
    this.#stream?.listenAgain(this);
  }

  // Asks the server for the stream after an id, and shows a response that ends it. EventSource hides
  // the status.
  async showEnd(id) {
    const url = address(this.route), asked = new AbortController();
    url.searchParams.set('last_event_id', id);
    try {
      const credentials = this.withCredentials ? 'include' : 'same-origin';
      const { status } = await fetch(url, { credentials, signal: asked.signal });
      if (status === 204) this.log('state', { type: '204', words: ['ended-204', { id }] });
      asked.abort();                              // any other response may be a stream
    } catch { /* a page of another origin may not read it */ }
  }

  clear() {
    super.clear();
    this.#bytes.clear();
    this.#counted(0);
  }

  // The stream calls the following methods of the panels that read it.

  reading(raw, readyState) {
    this.#show(raw);
    this.#opened ||= readyState === 1;
    this.#bytes.restart();
    this.#lostAt = undefined;
    this.state(readyState);
  }

  opened() {
    this.#opened = true;
    this.state(1);
    const waited = this.#lostAt && duration(performance.now() - this.#lostAt);
    this.#lostAt = undefined;
    this.log('state', waited
      ? { type: 'open', words: ['opened-after', { waited }] }
      : { type: 'open', data: 'readyState 1' });
  }

  received(event, replayed) {
    this.part('last-id').textContent = event.lastEventId;
    const { type, lastEventId: id, data } = event;
    if (type === 'gap') this.log('gap', { type, id, words: gapWords(data) });
    else this.log('event', { type, id, data, replayed });
    this.#counted(this.#count + 1);
    this.onevent?.(this, event, replayed);
  }

  at(id) {
    this.part('last-id').textContent = id;
    this.onid?.(id);
  }

  failed(readyState, reason) {
    this.#lostAt ??= performance.now();
    const words = readyState === CLOSED ? 'failed.2' : 'failed.0';
    this.log('state', { type: 'error', words: [words, { reason: reason ? ` (${reason})` : '' }] });
    this.state(readyState);
    this.#bytes.restart();
    if (readyState !== CLOSED) return;
    this.#end();
    if (this.#opened) this.onended?.(this);
    else this.onrejected?.(this);
  }

  evicted(why) {
    this.#end();
    this.log('state', { type: 'close()', data: 'readyState 2' });
    this.note(why);
  }

  bytes(array) { this.#bytes.push(array); }

  mark(text) { this.#bytes.mark(text); }

  #end() {
    this.#stream = null;
    this.state(CLOSED);
    settle();
    this.onclose?.(this);
  }

  #counted(count) {
    this.#count = count;
    this.part('count').textContent = number(count);
  }

  #show(raw) {
    this.part('raw-toggle').checked = raw;
    this.part('raw-view').hidden = !raw;
    setText(this.part('decoded-by'), raw ? 'decoded-by-page' : 'decoded-by-browser');
  }
}

// Returns the sentence for a gap: how many events of which channel are lost, if known.
export function gapWords(data) {
  try {
    const { channel, missed } = JSON.parse(data);
    return missed === null ? ['gap-unknown', { channel }] : ['gap', { channel, missed }];
  } catch {
    return ['gap-unknown', { channel: data }];
  }
}
