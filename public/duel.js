// The comparison's claims, tried: each button does the same thing to the WebSocket and to the stream beside it, and
// says what came of it.

import { sendData } from './chat.js';
import { lab, act } from './lab.js';
import { duration, say } from './words.js';

const PATIENCE = 15_000;

export function duel(socket, stream) {
  const root = document.getElementById('panel-h');
  const part = role => root.querySelector(`[data-role="${role}"]`);
  const heard = [];                  // who waits for an event of the stream, and for which
  const echoed = [];

  const listen = stream.onevent;
  stream.onevent = (panel, event, replayed) => {
    listen?.(panel, event, replayed);
    for (const one of heard.splice(0)) if (!one(event)) heard.push(one);
  };
  socket.onmessage = data => echoed.splice(0).forEach(one => one(data));

  // The event that carries this text; the chat may carry others'.
  const event = text => within(done => heard.push(event => {
    const mine = event.type === 'usermessage' && JSON.parse(event.data).text === text;
    if (mine) done(event);
    return mine;
  }));
  const echo = () => within(done => echoed.push(done));
  const within = wait => new Promise((done, fail) => {
    wait(done);
    setTimeout(() => fail(new Error('–')), PATIENCE);
  });

  const connected = async () => {
    if (!socket.open) {
      const welcome = echo();
      socket.connect();
      await welcome;
    }
    stream.connected || stream.connect();
    // Until there is an id to resume from, a cut may lose what is sent next.
    await within(done => stream.stream?.begun.then(done));
  };

  const tryOut = (role, doing) => part(`try-${role}`).addEventListener('click', async ({ currentTarget }) => {
    const out = part(`tried-${role}`);
    currentTarget.disabled = true;
    say(out, 'trying');
    try {
      await connected();
      say(out, ...await doing());
    } catch (error) {
      say(out, 'try-failed', { why: error.message });
    }
    currentTarget.disabled = false;
  });

  tryOut('cut', async () => {
    if (!lab.on) return ['cut-by-hand'];
    const began = performance.now(), text = `away ${stamp()}`;
    const closed = within(done => { socket.onclose = done; });
    const comes = event(text);
    await act('drop', { tab: lab.tab });
    await sendData({ message: text });
    const code = await closed;
    await comes;
    return ['cut-result', { waited: duration(performance.now() - began), code: String(code) }];
  });

  tryOut('binary', async () => {
    const bytes = Uint8Array.of(0, 255, 128, 127);
    const base64 = btoa(String.fromCharCode(...bytes));
    const [came] = await Promise.all([event(base64), sendData({ message: base64 })]);
    const answered = echo();
    socket.send(bytes);
    await answered;
    const same = atob(JSON.parse(came.data).text) === String.fromCharCode(...bytes);
    return [same ? 'binary-result' : 'try-failed', { count: bytes.length, base64, length: base64.length, why: base64 }];
  });

  tryOut('count', async () => {
    const text = `count ${stamp()}`;
    const [came] = await Promise.all([event(text), sendData({ message: text })]);
    const answered = echo();
    socket.send(text);
    const answer = await answered;
    const size = string => new TextEncoder().encode(string).length;
    const frame = size(`id: ${came.lastEventId}\nevent: ${came.type}\ndata: ${came.data}\n\n`);
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
