// RawSource: has the interface of EventSource, but also exposes the bytes of the stream. It uses
// fetch() and decoder.js. Besides open, message, error and the named events it dispatches `bytes`
// (detail: the Uint8Array of one read) and `mark` (detail: a line about the request or the
// response).

import { Decoder } from './decoder.js';

const CONNECTING = 0, OPEN = 1, CLOSED = 2;

export class RawSource extends EventTarget {
  #lastEventId = '';
  #retry = 3000;                      // milliseconds: Chromium's default, until the stream sets it
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

  // Reads nothing until the promise is settled, like a slow client. Meanwhile the bytes queue up in
  // the browser, in both kernels and in the server.
  async hold(until) {
    this.#held = until.catch(() => {});
    await until;
  }

  async #run() {
    await null;                       // lets the caller add its listeners first
    while (this.readyState !== CLOSED) {
      let reason = 'EOF';
      try {
        const rejection = await this.#read();
        if (this.readyState === CLOSED) return;
        if (rejection) return this.#error(CLOSED, rejection);
      } catch (error) {
        if (this.readyState === CLOSED) return;
        reason = error.message;       // a failed connection and a blocked origin have the same text
      }
      this.#error(CONNECTING, reason);
      await new Promise(done => setTimeout(done, this.#retry));
    }
  }

  // Reads one connection. Returns the reason not to reconnect, or undefined if the response has
  // ended.
  async #read() {
    const headers = { Accept: 'text/event-stream' };
    // EventSource sends the id in UTF-8. In fetch, one character of a header is one byte, so
    // convert each byte.
    const id = String.fromCharCode(...new TextEncoder().encode(this.#lastEventId));
    if (id) headers['Last-Event-ID'] = id;
    // The cursor in the URL is that of the first connection.
    const url = new URL(this.url);
    if (id && url.searchParams.has('last_event_id')) url.searchParams.set('last_event_id', this.#lastEventId);
    this.#mark(`GET ${url.pathname}${id && ` with Last-Event-ID: ${this.#lastEventId}`}`);

    const response = await fetch(url, {
      headers, cache: 'no-store', signal: this.#abort.signal,
      credentials: this.withCredentials ? 'include' : 'same-origin',
    });
    this.#mark([`${response.status} ${response.statusText}`, ...[...response.headers].map(h => h.join(': '))].join('\n'));
    if (response.status !== 200) return errorOf(response);
    const type = response.headers.get('Content-Type') ?? '';
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
    const reader = response.body.getReader();
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

async function errorOf(response) {
  if (response.status === 204) return '204 No Content';
  return problemText(response.status, await response.text());
}

// Returns one line about an error response: the status, with the text of the problem+json that the
// server sends. A response of a proxy may have no such text.
export function problemText(status, body) {
  try {
    const { title, detail } = JSON.parse(body);
    return [`${status} ${title ?? ''}`.trim(), detail].filter(Boolean).join(': ');
  } catch {
    return `${status}`;
  }
}
