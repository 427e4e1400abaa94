// Panel H: a WebSocket beside a stream, and the buttons of the comparison table.

import { sendData } from './chat.js';
import { act, address, lab } from './lab.js';
import { Panel } from './panel.js';
import { markTimeline } from './streams.js';
import { duration, setText } from './words.js';

const TIMEOUT = 15_000;             // milliseconds

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

// Makes each button of the table do the same with the WebSocket and with the stream, and show the
// results.
export function compare(socket, stream) {
  const root = document.getElementById('panel-h');
  const part = role => root.querySelector(`[data-role="${role}"]`);
  const eventWaiters = [];           // each returns whether it waited for this event
  const echoWaiters = [];

  const onevent = stream.onevent;
  stream.onevent = (panel, event, replayed) => {
    onevent?.(panel, event, replayed);
    for (const waiter of eventWaiters.splice(0)) if (!waiter(event)) eventWaiters.push(waiter);
  };
  socket.onmessage = data => echoWaiters.splice(0).forEach(done => done(data));

  // Resolves to the event with this text. The text is checked, because other clients may send to
  // the chat too.
  const event = text => within(done => eventWaiters.push(event => {
    const mine = event.type === 'usermessage' && JSON.parse(event.data).text === text;
    if (mine) done(event);
    return mine;
  }));
  const echo = () => within(done => echoWaiters.push(done));
  const within = wait => new Promise((done, fail) => {
    wait(done);
    setTimeout(() => fail(new Error('–')), TIMEOUT);
  });

  const connected = async () => {
    if (!socket.open) {
      const welcome = echo();
      socket.connect();
      await welcome;
    }
    stream.connected || stream.connect();
    // Without an id to resume from, the stream would lose a message that is sent while the stream
    // is cut.
    await within(done => stream.stream?.begun.then(done));
  };

  const tryOut = (role, action) => part(`try-${role}`).addEventListener('click', async ({ currentTarget }) => {
    const result = part(`tried-${role}`);
    currentTarget.disabled = true;
    setText(result, 'trying');
    try {
      await connected();
      setText(result, ...await action());
    } catch (error) {
      setText(result, 'try-failed', { why: error.message });
    }
    currentTarget.disabled = false;
  });

  tryOut('cut', async () => {
    if (!lab.on) return ['cut-by-hand'];
    const began = performance.now(), text = `away ${stamp()}`;
    const closed = within(done => { socket.onclose = done; });
    const received = event(text);
    await act('drop', { tab: lab.tab });
    await sendData({ message: text });
    const code = await closed;
    await received;
    return ['cut-result', { waited: duration(performance.now() - began), code: String(code) }];
  });

  tryOut('binary', async () => {
    const bytes = Uint8Array.of(0, 255, 128, 127);
    const base64 = btoa(String.fromCharCode(...bytes));
    const [received] = await Promise.all([event(base64), sendData({ message: base64 })]);
    const echoed = echo();
    socket.send(bytes);
    await echoed;
    const same = atob(JSON.parse(received.data).text) === String.fromCharCode(...bytes);
    return [same ? 'binary-result' : 'try-failed', { count: bytes.length, base64, length: base64.length, why: base64 }];
  });

  tryOut('count', async () => {
    const text = `count ${stamp()}`;
    const [received] = await Promise.all([event(text), sendData({ message: text })]);
    const echoed = echo();
    socket.send(text);
    const answer = await echoed;
    const size = string => new TextEncoder().encode(string).length;
    const frame = size(`id: ${received.lastEventId}\nevent: ${received.type}\ndata: ${received.data}\n\n`);
    const body = size(JSON.stringify({ message: text }));
    const posted = performance.getEntriesByType('resource').filter(one => one.name.includes('/send-data')).at(-1);
    performance.clearResourceTimings();
    return ['count-result', {
      text: size(text), up: size(text) + 6, down: size(answer) + (size(answer) < 126 ? 2 : 4),
      event: frame + frame.toString(16).length + 4, body, answer: posted?.transferSize ?? 0,
    }];
  });
}

const stamp = () => Math.random().toString(36).slice(2, 6);
