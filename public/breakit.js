// The drawer in which things are broken: a stream of numbered events, what may happen to it, and a ledger that
// says whether any number is missing or came twice.

import { StreamPanel } from './panel.js';
import { RawSource, problemOf } from './raw.js';
import { lab, act } from './lab.js';
import { duration, number, say } from './words.js';

const CHANNEL = `break-${lab.tab}`;
const AWAY = 3;                      // how many are published while nobody listens
const SLOW = 5000;                   // milliseconds of reading nothing
const FLOOD = 4000;                  // of 32 KiB each: twice what kernels and a browser keep for who does not read

class Ledger {
  published = 0;
  #came = new Map();                 // by number, how often
  #replayed = 0;
  #lost = 0;

  constructor(panel) { this.panel = panel; }

  received(data, replayed) {
    const n = Number(/^#(\d+)$/.exec(data)?.[1]);
    if (!n) return;
    this.#came.set(n, (this.#came.get(n) ?? 0) + 1);
    if (replayed) this.#replayed += 1;
    this.show();
  }

  gap(missed) {
    this.#lost += missed;
    this.show();
  }

  // Without a word: what the server has said to be lost is not missing.
  get missing() {
    const newest = Math.max(0, ...this.#came.keys());
    const holes = [...Array(newest).keys()].filter(n => !this.#came.has(n + 1)).length;
    return Math.max(0, holes - this.#lost);
  }

  show() {
    const twice = [...this.#came.values()].filter(times => times > 1).length;
    const facts = { published: this.published, came: this.#came.size, missing: this.missing, twice,
      replayed: this.#replayed, told: this.#lost };
    for (const [name, value] of Object.entries(facts)) {
      const place = this.panel.part(`ledger-${name}`);
      place.textContent = number(value);
      place.dataset.value = value;
    }
  }
}

export function breakIt() {
  let after = '';
  const panel = new StreamPanel('break', {
    route: () => `/channels/${CHANNEL}${after && `?last_event_id=${encodeURIComponent(after)}`}`,
    types: ['gap'],
    onid(id) {
      const first = after === '';
      after = id;
      if (first) tick();
    },
    onevent(_, event, replayed) {
      if (event.type === 'gap') return gap(JSON.parse(event.data).missed ?? 0);
      if (flood.on && /^\d+ \.+$/.test(event.data)) {
        flood.came += 1;
        return flooded();
      }
      ledger.received(event.data, replayed);
    },
    onclose: () => controls(),
    onconnect: () => controls(),
  });
  const ledger = new Ledger(panel);
  const flood = { came: 0, lost: 0, on: false };
  // Of a flood, what is lost is no number of the ledger's.
  const gap = missed => {
    if (!flood.on) return ledger.gap(missed);
    flood.lost += missed;
    flooded();
  };
  const flooded = () => {
    if (!flood.on || flood.came + flood.lost < FLOOD) return;
    flood.on = false;
    panel.note(['slow-done', { count: FLOOD, came: flood.came, lost: flood.lost }]);
  };
  let ticking;

  // Not before the stream has an id to resume from: what is published earlier is not the stream's.
  const publish = async (retry) => {
    if (!after) await panel.stream?.begun;
    ledger.published += 1;
    const answer = await fetch(`/channels/${CHANNEL}`, {
      method: 'POST', headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ data: `#${ledger.published}`, ...(retry !== undefined && { retry }) }),
    });
    if (!answer.ok) throw new Error(problemOf(answer.status, await answer.text()));
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
  const on = (role, doing) => panel.on(role, 'click', async () => {
    try { await doing(); } catch (error) { failed(error); }
  });

  panel.on('tick', 'change', tick);
  on('retry-set', async () => {
    const retry = Number(panel.part('retry').value);
    await publish(retry);
    panel.note(['retry-is', { waits: duration(retry) }]);
  });
  on('resume', async () => {
    await panel.stream.begun;
    panel.close();
    for (let n = 0; n < AWAY; n += 1) await publish();
    panel.connect();
    panel.note(['resumed', { count: AWAY, after: after || '–' }]);
  });
  on('gap', async () => {
    await panel.stream.begun;
    panel.close();
    for (let n = 0; n < AWAY; n += 1) await publish();
    await fetch(`/channels/${CHANNEL}`, { method: 'DELETE' });
    panel.connect();
    panel.note(['forgotten', { count: AWAY }]);
  });
  on('drop', async () => {
    if (!after) await panel.stream?.begun;
    panel.note(['dropped', await act('drop', { tab: lab.tab })]);
  });
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
    Object.assign(flood, { came: 0, lost: 0, on: true });
    panel.note(['slow', { waits: duration(SLOW), count: FLOOD }]);
    const flooded = act('flood', { channel: CHANNEL, events: FLOOD, bytes: '32KiB' });
    await source.hold(Promise.all([flooded, new Promise(done => setTimeout(done, SLOW))]));
  });

  const drawer = panel.root, open = document.getElementById('break-open');
  const show = shown => {
    drawer.hidden = !shown;
    open.setAttribute('aria-expanded', shown);
    document.documentElement.dataset.drawer = shown ? 'open' : '';
    if (shown) drawer.querySelector('h2').focus();
    else open.focus();
  };
  open.addEventListener('click', () => show(drawer.hidden));
  panel.on('hide', 'click', () => show(false));
  drawer.addEventListener('keydown', event => { if (event.key === 'Escape') show(false); });
  document.getElementById('lab-note').hidden = lab.on;
  say(panel.part('channel'));
  panel.part('channel').textContent = `/channels/${CHANNEL}`;
  controls();
  ledger.show();
}
