// The two buttons at the top of the page, and the path of four steps, which shows what happens to the
// numbered stream (breakit.js).

import { act, lab } from './lab.js';
import { timelineEvents } from './streams.js';
import { clock, duration, setText } from './words.js';

const CLIENTS = 1000;
const FIRST_EVENT = 3000;           // milliseconds, as below
const LOOK_EVERY = 500;
const LOOKS = 60;                   // until the clients must be open

const part = id => document.getElementById(id);
const said = part('said');

export function hero({ panel, ledger, cut }) {
  clients();

  const say = (step, ...words) => {
    const shown = setText(part(`step-${step}`), ...words);
    shown.closest('li').toggleAttribute('data-done', words.length > 0);
  };
  let lostAt, back, replayed;         // when the stream was lost and came back; events replayed before
  const resumed = () => {
    const { missing, ...counts } = ledger.counts;
    say('resume', 'step.resumed', { waited: duration(back - lostAt), replayed: counts.replayed - replayed, missing });
  };

  timelineEvents.addEventListener('mark', ({ detail: { name, kind } }) => {
    if (kind === 'open') say('open', 'step.open', { name, time: clock() });
    if (name !== panel.name) return;
    if (kind === 'lost' || kind === 'closed') {
      lostAt = performance.now();
      back = undefined;
      ({ replayed } = ledger.counts);
      say('cut', `step.${kind}`, { time: clock() });
      say('resume');
    } else if (kind === 'open' && lostAt) {
      back ??= performance.now();
      resumed();
    } else if (kind === 'replayed' && back) setTimeout(resumed);      // when the ledger has counted it
  });

  part('cut').addEventListener('click', async ({ currentTarget }) => {
    currentTarget.disabled = true;
    try {
      if (!panel.connected) {
        panel.connect();
        setText(said, 'cut.opening');
        await firstEvent(panel.name);
      }
      await cut();
      setText(said, lab.on ? 'cut.dropped' : 'cut.closed');
    } catch (error) {
      setText(said, 'try-failed', { why: error.message });
    }
    currentTarget.disabled = false;
    currentTarget.focus();
  });
}

// Resolves when a stream gets an event; or after a while, because publishing may need a token.
const firstEvent = wanted => new Promise(done => {
  const waiting = AbortSignal.timeout(FIRST_EVENT);
  waiting.addEventListener('abort', done);
  timelineEvents.addEventListener('mark', ({ detail: { name, kind } }) => {
    if (name === wanted && kind === 'event') done();
  }, { signal: waiting });
});

// The load clients of the lab. They are closed with the page, unless the live view is next.
function clients() {
  const button = part('clients'), how = part('lab-how');
  let asked = 0, ours = false;
  const show = () => setText(button, asked > 0 ? 'clients.close' : 'clients.open', { count: asked || CLIENTS });
  const ask = async count => {
    const { opening } = await act('clients', { count });
    asked = opening;
    ours = asked > 0;
    show();
    setText(said, asked > 0 ? 'trying' : 'clients.closed');
    if (asked > 0) await watch();
  };
  const watch = async () => {
    for (let looks = 0; looks < LOOKS && asked > 0; looks += 1) {
      const status = await (await fetch('/status')).json();
      const { clients: open = 0 } = status.lab;
      if (asked > 0) setText(said, 'clients.now', { open, threads: status.threads, memory: Math.round(status.memory_bytes / 2 ** 20) });
      if (open >= Math.min(asked, status.lab.own_most ?? asked)) return;
      await new Promise(done => setTimeout(done, LOOK_EVERY));
    }
  };
  button.addEventListener('click', async () => {
    if (!lab.on) {
      how.hidden = !how.hidden;
      button.setAttribute('aria-expanded', !how.hidden);
      return;
    }
    try {
      await ask(asked > 0 ? 0 : CLIENTS);
    } catch (error) {
      setText(said, 'try-failed', { why: error.message });
    }
  });
  addEventListener('pagehide', () => ours && navigator.sendBeacon('/lab/clients?count=0'));
  for (const link of document.querySelectorAll('[href="lab.html"]')) link.addEventListener('click', () => { ours = false; });
  if (lab.on) {
    fetch('/status').then(response => response.json()).then(status => {
      asked = status.lab.asked;
      show();
    });
  }
  part('load-command').textContent = `threadcast load ${location.origin}/channels/chat --clients ${CLIENTS}`;
  show();
}
