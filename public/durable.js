// Panel J: a model appends tokens to a durable stream, and two readers follow it. The page loads this
// file, its markup (durable.html) and its texts (durable-words.js) when the panel is opened.

import { act, address, lab } from './lab.js';
import { append as show, empty, item } from './log.js';
import { StreamPanel } from './panel.js';
import { problemText } from './raw.js';
import { addTexts, number, setText } from './words.js';
import * as texts from './durable-words.js';

const TOKENS = 100;
const EVERY = 100;                    // milliseconds
const TTL = 600;                      // seconds without use, after which the server deletes the stream
const WORDS = 'A stream that keeps all its bytes can be read from any position, now or later.'.split(' ');

const root = document.getElementById('panel-j');
root.insertAdjacentHTML('beforeend', await (await fetch('durable.html')).text());
await addTexts(texts);

const part = role => root.querySelector(`[data-role="${role}"]`);
const say = (...words) => setText(part('said'), ...words);
const path = name => `/v1/stream/${encodeURIComponent(name)}`;
const pause = milliseconds => new Promise(done => setTimeout(done, milliseconds));

let stream = new URLSearchParams(location.search).get('stream');      // its name, which another tab passes

// A reader counts the tokens that it has received: the model numbers them from 1 on.
class Reader extends StreamPanel {
  #times = new Map();                 // by number of the token: how often it came
  #from = '-1';                       // the offset to read from

  constructor(number) {
    super(`j-${number}`, {
      types: ['data', 'control'],
      route: () => `${path(stream)}?offset=${this.#from}&live=sse&reader=${number}`,
      onconnect: () => this.#connected(),
      onevent: (_, event) => this.#event(event),
      onclose: showConnected,
    });
    this.on('reload', 'click', () => this.reload());
  }

  // Forgets everything, as a page does that is reloaded.
  reload() {
    this.close();
    this.clear();
    this.connect();
    this.note('j.reloaded');
  }

  // Closes the stream, and continues after the last offset.
  resume() {
    if (!this.connected) return;
    this.#from = this.part('last-id').textContent || '-1';
    this.close();
    this.connect();
  }

  #connected() {
    for (const role of ['reload', 'connect']) this.part(role).disabled = false;
    if (this.#from === '-1') {
      this.#times.clear();
      empty(this.part('list'));
      this.#count();
    }
    this.#from = '-1';
    showConnected();
  }

  #event({ type, data }) {
    if (type === 'data') {
      for (const token of data.trim().split(' ')) {
        const n = Number(/\d+$/.exec(token));
        this.#times.set(n, (this.#times.get(n) ?? 0) + 1);
        show(this.part('list'), item(token));
      }
      this.#count();
    } else if (JSON.parse(data).streamClosed) this.close(['j.closed', this.#count()]);
  }

  #count() {
    const numbers = [...this.#times.keys()], times = [...this.#times.values()];
    const counts = {
      received: numbers.length,
      missing: Math.max(0, ...numbers) - numbers.length,
      duplicates: times.filter(count => count > 1).length,
    };
    for (const [name, value] of Object.entries(counts)) {
      this.part(`ledger-${name}`).textContent = number(value);
      this.part(`ledger-${name}`).dataset.value = value;
    }
    return counts;
  }
}

const readers = [new Reader(1), new Reader(2)];

function showConnected() {
  const connected = readers.some(reader => reader.connected);
  setText(part('connect'), connected ? 'close' : 'connect');
  part('acts').hidden = !stream;
  part('tab').href = `?${new URLSearchParams({ stream })}#panel-j`;
  part('cut').disabled = !connected;
}

// The model: an idempotent producer. A request that it repeats is appended once.
class Model {
  #tokens = 0;
  #seq = 0;
  #repeated = 0;

  async run() {
    const began = performance.now();
    while (this.#tokens < TOKENS) {
      // A tab in the background runs its timers seldom, and then appends several tokens at once.
      const due = Math.min(TOKENS, Math.ceil((performance.now() - began + 1) / EVERY));
      let text = '';
      while (this.#tokens < due) {
        text += `${WORDS[this.#tokens % WORDS.length]}${this.#tokens + 1} `;
        this.#tokens += 1;
      }
      await this.#append(text);
      await pause(EVERY);
    }
    await this.#append('', { 'Stream-Closed': 'true' });
  }

  async #append(body, headers) {
    const request = {
      method: 'POST', body,
      headers: {
        'Content-Type': 'text/plain', 'Producer-Id': 'model', 'Producer-Epoch': '0', 'Producer-Seq': this.#seq, ...headers,
      },
    };
    await send(request);
    this.#seq += 1;
    if (this.#seq % 5 === 0) {
      await send(request);
      this.#repeated += 1;
    }
    say('j.sent', { tokens: this.#tokens, requests: this.#seq, repeated: this.#repeated });
  }
}

async function send(request) {
  const response = await fetch(address(path(stream)), request);
  if (!response.ok) throw new Error(problemText(response.status, await response.text()));
}

let running = false;

async function run() {
  running = true;
  try {
    await new Model().run();
  } catch (error) {
    say('not-sent', { why: error.message });
  }
  running = false;
}

// Opens both readers, at a new stream unless the model still writes to the last one; or closes them.
export async function connect() {
  if (readers.some(reader => reader.connected)) return readers.forEach(reader => reader.close());
  if (!await isOffered()) return;
  try {
    if (!running) {
      stream = `model-${lab.tab}-${Date.now()}`;
      await send({ method: 'PUT', headers: { 'Content-Type': 'text/plain', 'Stream-TTL': TTL } });
      run();
    }
    for (const reader of readers) reader.connect();
  } catch (error) {
    say('not-sent', { why: error.message });
  }
}

// Whether the server has durable streams. OPTIONS succeeds in any case, so the console shows no error.
async function isOffered() {
  let allowed = '';
  try {
    allowed = (await fetch(address(path('x')), { method: 'OPTIONS' })).headers.get('Allow') ?? '';
  } catch { /* an unreachable server offers nothing */ }
  part('off').hidden = /\bPUT\b/.test(allowed);
  return part('off').hidden;
}

part('cut').addEventListener('click', async () => {
  if (lab.on) {
    readers[0].note(['dropped', await act('drop', { tab: lab.tab })]);
    return;
  }
  for (const reader of readers) reader.resume();
  readers[0].note('j.cut-by-page');
});

if (await isOffered() && stream) readers[0].connect();
