// A panel: the controls of one stream, and the view of its events and bytes.

import { address } from './server.js';
import { append, empty, row, settle } from './log.js';
import { ByteView } from './bytes.js';
import { join, CLOSED } from './streams.js';
import { duration, number, textSpan, setText } from './words.js';

export class Panel {
  constructor(id, template) {
    this.root = document.getElementById(`panel-${id}`);
    this.name = this.root.dataset.name;
    this.dye = this.root.closest('[data-dye]')?.dataset.dye;
    const controls = document.getElementById(template).content.cloneNode(true);
    (this.root.querySelector('[data-slot]') ?? this.root).prepend(controls);
    this.on('connect', 'click', () => this.connect());
    this.on('close', 'click', () => this.close());
    this.on('clear', 'click', () => this.clear());
  }

  part(role) { return this.root.querySelector(`[data-role="${role}"]`); }

  on(role, type, listener) { this.part(role).addEventListener(type, listener); }

  state(readyState, words = 'state') {
    setText(this.part('state'), `${words}.${readyState}`);
    this.part('state').dataset.state = this.root.dataset.live = readyState;
    const card = this.root.closest('.panel');
    const sign = card && document.querySelector(`[data-sign="${card.id}"]`);
    if (sign) sign.dataset.state = readyState;
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

export class StreamPanel extends Panel {
  #stream = null;
  #bytes;
  #count = 0;
  #lostAt;
  #opened;                                      // whether the stream has opened since connect()

  // `types` are the named events to listen for, besides `message`. `source` creates another source
  // than EventSource or RawSource. The panel calls onconnect, onevent, onid and onclose, and
  // onrejected if a stream closes before it opens.
  constructor(id, { route, types = [], withCredentials = false, source, onconnect, onevent, onid, onclose, onrejected }) {
    super(id, 'stream-controls');
    Object.assign(this, { route, types, withCredentials, source, onconnect, onevent, onid, onclose, onrejected });
    this.#bytes = new ByteView(this.part('raw'));
    this.on('raw-toggle', 'change', () => {
      const raw = this.part('raw-toggle').checked;
      if (this.#stream) this.#stream.read(raw);
      else this.#show(raw);
    });
  }

  get connected() { return this.#stream !== null; }

  get stream() { return this.#stream; }

  connect() {
    if (this.#stream) return this.note('already');
    this.note();
    this.#opened = false;
    this.part('last-id').textContent = '';
    let url;
    try {
      url = address(typeof this.route === 'function' ? this.route() : this.route);
    } catch {
      return this.note('no-url');
    }
    const raw = this.part('raw-toggle').checked;
    const source = this.source && (() => this.source(url));
    this.#stream = join(url, { withCredentials: this.withCredentials, raw, source }, this);
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
    if (!this.#opened) this.onrejected?.(this);
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
