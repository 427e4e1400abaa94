// RawSource: an EventSource that also shows its bytes. Same interface, made of fetch() and decoder.js.
// Besides open, message, error and the named events it dispatches `bytes` (detail: one read's Uint8Array)
// and `mark` (detail: a line about the request or the answer).

import { Decoder } from './decoder.js';

const CONNECTING = 0, OPEN = 1, CLOSED = 2;

export class RawSource extends EventTarget {
  #lastEventId = '';
  #retry = 3000;                      // until the stream says otherwise, as in Chromium
  #abort = new AbortController();
  #held = null;

  constructor(url, { withCredentials = false } = {}) {
    super();
    this.url = String(url);
    this.withCredentials = withCredentials;
    this.readyState = CONNECTING;
    this.#run();
  }

  close() {
    this.readyState = CLOSED;
    this.#abort.abort();
  }

  // Reads nothing until then, as a slow client does: the bytes pile up, here, in both kernels and at the server.
  async hold(until) {
    this.#held = until.catch(() => {});
    await until;
  }

  async #run() {
    await null;                       // whoever made this source adds its listeners first
    while (this.readyState !== CLOSED) {
      let reason = 'EOF';
      try {
        const refusal = await this.#read();
        if (this.readyState === CLOSED) return;
        if (refusal) return this.#error(CLOSED, refusal);
      } catch (error) {
        if (this.readyState === CLOSED) return;
        reason = error.message;       // fetch does not tell a refused connection from a refused origin
      }
      this.#error(CONNECTING, reason);
      await new Promise(done => setTimeout(done, this.#retry));
    }
  }

  // One connection. Returns why there must be no other, or nothing when the response has just ended.
  async #read() {
    const headers = { Accept: 'text/event-stream' };
    // In UTF-8, as EventSource sends it; fetch takes one character for one byte.
    const id = String.fromCharCode(...new TextEncoder().encode(this.#lastEventId));
    if (id) headers['Last-Event-ID'] = id;
    this.#mark(`GET ${new URL(this.url).pathname}${id && ` with Last-Event-ID: ${this.#lastEventId}`}`);

    const answer = await fetch(this.url, {
      headers, cache: 'no-store', signal: this.#abort.signal,
      credentials: this.withCredentials ? 'include' : 'same-origin',
    });
    this.#mark([`${answer.status} ${answer.statusText}`, ...[...answer.headers].map(h => h.join(': '))].join('\n'));
    if (answer.status !== 200) return refusalOf(answer);
    const type = answer.headers.get('Content-Type') ?? '';
    if (!/^text\/event-stream\s*(;|$)/i.test(type)) return `Content-Type: ${type}`;

    this.readyState = OPEN;
    this.dispatchEvent(new Event('open'));
    const decoder = new Decoder({
      lastEventId: this.#lastEventId,
      onevent: event => {
        if (this.readyState === CLOSED) return;
        this.dispatchEvent(new MessageEvent(event.type, { ...event, origin: new URL(this.url).origin }));
      },
      onretry: milliseconds => { this.#retry = milliseconds; },
    });
    const reader = answer.body.getReader();
    try {
      for (;;) {
        await this.#held;
        const { done, value } = await reader.read();
        if (done || this.readyState === CLOSED) return;
        this.dispatchEvent(new CustomEvent('bytes', { detail: value }));
        decoder.push(value);
      }
    } finally {
      this.#lastEventId = decoder.lastEventId;
    }
  }

  #mark(text) {
    this.dispatchEvent(new CustomEvent('mark', { detail: text }));
  }

  #error(readyState, reason) {
    this.readyState = readyState;
    this.dispatchEvent(Object.assign(new Event('error'), { reason }));
  }
}

async function refusalOf(answer) {
  if (answer.status === 204) return '204 No Content';
  return problemOf(answer.status, await answer.text());
}

// The server's errors are application/problem+json; what stands before it (a proxy) may answer anything.
export function problemOf(status, body) {
  try {
    const { title, detail } = JSON.parse(body);
    return [`${status} ${title ?? ''}`.trim(), detail].filter(Boolean).join(': ');
  } catch {
    return `${status}`;
  }
}
