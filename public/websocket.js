// Panel H: a WebSocket beside a stream.

import { address } from './lab.js';
import { Panel } from './panel.js';
import { markTimeline } from './streams.js';

export class WebSocketPanel extends Panel {
  #socket = null;

  constructor(id) {
    super(id, 'socket-controls');
    this.on('form', 'submit', event => {
      event.preventDefault();
      this.send(this.part('text').value);
    });
    this.on('send-binary', 'click', () => this.send(new TextEncoder().encode(this.part('text').value)));
  }

  get connected() { return this.#socket !== null; }

  get open() { return this.#socket?.readyState === WebSocket.OPEN; }

  connect() {
    if (this.#socket) return;
    this.note();
    let socket;
    try {
      const url = address('/ws');
      url.protocol = url.protocol.replace('http', 'ws');
      socket = new WebSocket(url);
    } catch {
      return this.note('no-url');
    }
    socket.binaryType = 'arraybuffer';
    this.#socket = socket;
    this.state(0, 'ws-state');
    socket.addEventListener('open', () => {
      this.state(socket.readyState, 'ws-state');
      this.log('state', { type: 'open', data: 'readyState 1' });
      this.#mark('open');
    });
    socket.addEventListener('message', ({ data }) => {
      this.log('event', described(data));
      this.#mark('event', { type: 'message', data });
      this.onmessage?.(data);
    });
    socket.addEventListener('error', () => this.log('state', { type: 'error', words: ['ws-error'] }));
    socket.addEventListener('close', ({ code, reason }) => {
      this.#socket = null;
      this.state(3, 'ws-state');
      this.log('state', { type: 'close', words: ['ws-closed', { code: String(code), reason: reason && `, ${reason}` }] });
      this.#mark('closed');
      this.onclose?.(code);
    });
  }

  close() {
    this.#socket?.close(1000);
    if (this.#socket) this.state(this.#socket.readyState, 'ws-state');
  }

  send(message) {
    if (!this.open) return this.note('connect-first');
    this.note();
    this.#socket.send(message);
    this.log('sent', described(message));
    this.#mark('sent');
  }

  #mark(kind, event) { markTimeline('/ws', this.name, 'walnut', kind, event); }
}

function described(data) {
  if (typeof data === 'string') return { type: 'text', data };
  const bytes = new Uint8Array(data);
  const shown = Array.from(bytes.subarray(0, 64), byte => byte.toString(16).padStart(2, '0')).join(' ');
  return { type: 'binary', words: ['bytes', { count: bytes.length, shown: `${shown}${bytes.length > 64 ? ' …' : ''}` }] };
}
