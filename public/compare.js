// The buttons of the comparison table in panel H: each does the same with the WebSocket and with the
// stream, and shows the results. The page loads this file when one of them is clicked.

import { sendData } from './chat.js';
import { act, lab } from './lab.js';
import { duration, setText } from './words.js';

const TIMEOUT = 15_000;             // milliseconds

// Returns a function that tries what a button's role names.
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

  const actions = {
    async cut() {
      if (!lab.on) return ['cut-by-hand'];
      const began = performance.now(), text = `away ${stamp()}`;
      const closed = within(done => { socket.onclose = done; });
      const received = event(text);
      await act('drop', { tab: lab.tab });
      await sendData({ message: text });
      const code = await closed;
      await received;
      return ['cut-result', { waited: duration(performance.now() - began), code: String(code) }];
    },

    async binary() {
      const bytes = Uint8Array.of(0, 255, 128, 127);
      const base64 = btoa(String.fromCharCode(...bytes));
      const [received] = await Promise.all([event(base64), sendData({ message: base64 })]);
      const echoed = echo();
      socket.send(bytes);
      await echoed;
      const same = atob(JSON.parse(received.data).text) === String.fromCharCode(...bytes);
      return [same ? 'binary-result' : 'try-failed', { count: bytes.length, base64, length: base64.length, why: base64 }];
    },

    async count() {
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
    },
  };

  return async button => {
    const what = button.dataset.role.replace('try-', ''), result = part(`tried-${what}`);
    button.disabled = true;
    setText(result, 'trying');
    try {
      await connected();
      setText(result, ...await actions[what]());
    } catch (error) {
      setText(result, 'try-failed', { why: error.message });
    }
    button.disabled = false;
  };
}

const stamp = () => Math.random().toString(36).slice(2, 6);
