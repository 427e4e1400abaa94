// The drawer "Break it": a stream of numbered events, ways to disturb it, and a ledger that counts
// missing and duplicate numbers.

import { StreamPanel } from './panel.js';
import { RawSource, problemText } from './raw.js';
import { lab, act } from './lab.js';
import { duration, number, setText } from './words.js';

const CHANNEL = `break-${lab.tab}`;
const WHILE_CLOSED = 3;              // events published while the stream is closed
const SLOW = 5000;                   // milliseconds for which the page reads nothing
const FLOOD = 4000;                  // events of 32 KiB: twice what kernels and browser buffer

class Ledger {
  published = 0;
  publishedAt = new Map();           // by event number: when the request began, by performance.now()
  #received = new Map();             // by event number: how often that event came
  #replayed = 0;
  #lost = 0;                         // the number of events that the server reported lost

  constructor(panel) { this.panel = panel; }

  received(data, replayed) {
    const n = numberOf(data);
    if (!n) return;
    this.#received.set(n, (this.#received.get(n) ?? 0) + 1);
    if (replayed) this.#replayed += 1;
    this.show();
  }

  gap(missed) {
    this.#lost += missed;
    this.show();
  }

  // Events that the server has reported lost do not count as missing.
  get missing() {
    const newest = Math.max(0, ...this.#received.keys());
    const holes = [...Array(newest).keys()].filter(n => !this.#received.has(n + 1)).length;
    return Math.max(0, holes - this.#lost);
  }

  get counts() {
    const duplicates = [...this.#received.values()].filter(times => times > 1).length;
    return { published: this.published, received: this.#received.size, replayed: this.#replayed,
      missing: this.missing, duplicates, lost: this.#lost };
  }

  show() {
    for (const [name, value] of Object.entries(this.counts)) {
      const part = this.panel.part(`ledger-${name}`);
      part.textContent = number(value);
      part.dataset.value = value;
    }
  }
}

const numberOf = data => Number(/^#(\d+)$/.exec(data)?.[1]);

// Returns the drawer's panel and ledger, and an act that cuts its stream.
export function breakIt() {
  let after = '';
  const panel = new StreamPanel('break', {
    route: () => `/channels/${CHANNEL}${after && `?last_event_id=${encodeURIComponent(after)}`}`,
    types: ['gap'],
    isReplayed: (event, openedAt) => ledger.publishedAt.get(numberOf(event.data)) < openedAt,
    onid(id) {
      const first = after === '';
      after = id;
      if (first) tick();
    },
    onevent(_, event, replayed) {
      if (event.type === 'gap') return gap(JSON.parse(event.data).missed ?? 0);
      if (flood.on && /^\d+ \.+$/.test(event.data)) {
        flood.received += 1;
        return checkFlood();
      }
      ledger.received(event.data, replayed);
    },
    onclose: () => controls(),
    onconnect: () => controls(),
  });
  const ledger = new Ledger(panel);
  const flood = { received: 0, lost: 0, on: false };
  // The ledger does not count the events of a flood, so the gaps of a flood are counted here.
  const gap = missed => {
    if (!flood.on) return ledger.gap(missed);
    flood.lost += missed;
    checkFlood();
  };
  const checkFlood = () => {
    if (!flood.on || flood.received + flood.lost < FLOOD) return;
    flood.on = false;
    panel.note(['slow-done', { count: FLOOD, received: flood.received, lost: flood.lost }]);
  };
  let ticking;

  // Publishes a numbered event, but not before the stream has an id to resume from: if the stream
  // were cut earlier, it would miss the event.
  const publish = async (retry) => {
    if (!after) await panel.stream?.begun;
    ledger.published += 1;
    ledger.publishedAt.set(ledger.published, performance.now());
    const response = await fetch(`/channels/${CHANNEL}`, {
      method: 'POST', headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ data: `#${ledger.published}`, ...(retry !== undefined && { retry }) }),
    });
    if (!response.ok) throw new Error(problemText(response.status, await response.text()));
    ledger.show();
  };

  const tick = () => {
    clearInterval(ticking);
    if (panel.part('tick').checked && panel.connected && after) ticking = setInterval(() => publish().catch(failed), 1000);
  };
  const failed = error => panel.note(['not-sent', { why: error.message }]);
  const controls = () => {
    for (const button of panel.root.querySelectorAll('[data-needs~=stream]')) button.disabled = !panel.connected;
    for (const button of panel.root.querySelectorAll('[data-needs~=lab]')) {
      button.disabled = !lab.on || (!panel.connected && button.matches('[data-needs~=stream]'));
    }
    tick();
  };
  const on = (role, action) => panel.on(role, 'click', async () => {
    try { await action(); } catch (error) { failed(error); }
  });

  panel.on('tick', 'change', tick);
  on('retry-set', async () => {
    const retry = Number(panel.part('retry').value);
    await publish(retry);
    panel.note(['retry-is', { waits: duration(retry) }]);
  });
  const resume = async () => {
    await panel.stream.begun;
    panel.close();
    for (let n = 0; n < WHILE_CLOSED; n += 1) await publish();
    panel.connect();
    panel.note(['resumed', { count: WHILE_CLOSED, after: after || '–' }]);
  };
  on('resume', resume);
  on('gap', async () => {
    await panel.stream.begun;
    panel.close();
    for (let n = 0; n < WHILE_CLOSED; n += 1) await publish();
    await fetch(`/channels/${CHANNEL}`, { method: 'DELETE' });
    panel.connect();
    panel.note(['forgotten', { count: WHILE_CLOSED }]);
  });
  const drop = async () => {
    if (!after) await panel.stream?.begun;
    panel.note(['dropped', await act('drop', { tab: lab.tab })]);
  };
  on('drop', drop);
  on('drop-all', async () => {
    if (!after) await panel.stream?.begun;
    panel.note(['dropped-all', await act('drop', { for: '5s' })]);
  });
  on('slow', async () => {
    panel.part('tick').checked = false;
    tick();
    panel.stream.read(true);
    const { source } = panel.stream;
    if (!(source instanceof RawSource)) return;
    if (source.readyState !== 1) await new Promise(done => source.addEventListener('open', done, { once: true }));
    Object.assign(flood, { received: 0, lost: 0, on: true });
    panel.note(['slow', { waits: duration(SLOW), count: FLOOD }]);
    const published = act('flood', { channel: CHANNEL, events: FLOOD, bytes: '32KiB' });
    await source.hold(Promise.all([published, new Promise(done => setTimeout(done, SLOW))]));
  });

  const drawer = panel.root;
  let opener = document.getElementById('break-open');
  const show = shown => {
    drawer.hidden = !shown;
    for (const button of openers) button.setAttribute('aria-expanded', shown);
    document.documentElement.dataset.drawer = shown ? 'open' : '';
    if (!shown) return opener.focus();
    panel.connect();
    drawer.querySelector('h2').focus();
  };
  const openers = document.querySelectorAll('[aria-controls=panel-break]');
  for (const button of openers) {
    button.addEventListener('click', () => {
      opener = button;
      show(drawer.hidden);
    });
  }
  panel.on('hide', 'click', () => show(false));
  document.addEventListener('keydown', ({ key }) => {
    if (key === 'Escape' && !drawer.hidden && !document.querySelector(':popover-open')) show(false);
  });
  document.getElementById('lab-note').hidden = lab.on;
  panel.part('channel').textContent = `/channels/${CHANNEL}`;
  controls();
  ledger.show();

  const cut = async () => {
    panel.connect();
    await (lab.on ? drop : resume)();
  };
  return { panel, ledger, cut };
}
