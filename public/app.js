// The demo page: creates each panel with the demo stream that it reads and with what it does
// besides showing events. An event passes from raw.js or the browser's EventSource through
// streams.js and panel.js to log.js and timeline.js.

import { StreamPanel, unfold } from './panel.js';
import { WebSocketPanel } from './websocket.js';
import { CHAT, sendForm, showInChat } from './chat.js';
import { append, item } from './log.js';
import { budget, LIMIT, openStreams } from './streams.js';
import { channelPanel } from './channel.js';
import { breakIt } from './breakit.js';
import { hero } from './hero.js';
import { findLab, offerOtherOrigin } from './lab.js';
import { settings } from './settings.js';
import { timeline } from './timeline.js';
import { setText, setLanguage } from './words.js';

const root = document.documentElement;
await Promise.all([setLanguage(root.lang), findLab()]);

timeline();
settings();

const list = (panel, text) => append(panel.part('list'), item(text));

const a = new StreamPanel('a', { route: '/stream', types: ['connecttime'] });

new StreamPanel('b', { route: '/sse', types: ['custom-event'] });

new StreamPanel('c', {
  route: '/api/sse', types: ['update', 'hi', 'end'], withCredentials: true,
  onevent(panel, event) {
    list(panel, `[${event.lastEventId || 0}] ${event.data}`);
    if (event.type !== 'end') return;
    panel.close('closed-on-end');
    panel.showEnd(event.lastEventId);
  },
});

// Panel D has no listener for `customEvent`, so it never gets one, although it shares its
// EventSource with panel E.
new StreamPanel('d', { route: '/events', onevent: (panel, event) => list(panel, event.data) });

const ARTICLE_CLOSES_AFTER = 10_000;
let closing;
const e = new StreamPanel('e', {
  route: '/events', types: ['customEvent'],
  onconnect(panel) {
    closing = setTimeout(() => {
      if (!panel.part('keep').checked) panel.close('closed-after-10');
    }, ARTICLE_CLOSES_AFTER);
  },
  onclose: () => clearTimeout(closing),
});
e.on('keep', 'change', () => { if (e.part('keep').checked) clearTimeout(closing); });

sendForm(new StreamPanel('f', CHAT));

new StreamPanel('g', {
  route: '/count', onevent: (panel, event) => list(panel, event.data),
  onended: panel => panel.showEnd(panel.part('last-id').textContent),
});

const socket = new WebSocketPanel('h-ws');
const stream = new StreamPanel('h-sse', { ...CHAT });
sendForm(stream);
let comparison;                       // loaded when one of its buttons is clicked
document.querySelector('#panel-h tbody').addEventListener('click', async ({ target }) => {
  if (!target.closest('button')) return;
  comparison ??= import('./compare.js').then(({ compare }) => compare(socket, stream));
  (await comparison)(target);
});
document.getElementById('connect-both').addEventListener('click', () => {
  for (const panel of [socket, stream]) panel.connect();
  document.querySelector('#panel-h .fold').focus();        // the button is hidden now
});

sendForm(new StreamPanel('i', { ...CHAT, onevent: showInChat }));

channelPanel();
hero(breakIt());

// Panel J is loaded when it is opened.
const durable = document.getElementById('panel-j');
const load = () => import('./durable.js');
durable.addEventListener('unfold', load, { once: true });
durable.querySelector('[data-role=connect]').addEventListener('click', async () => {
  unfold(durable);
  (await load()).connect();
});

for (const heading of document.querySelectorAll('.fold')) {
  const card = heading.closest('.panel');
  heading.addEventListener('click', () => unfold(card, !card.hasAttribute('data-open')));
}
const unfoldTarget = () => unfold(document.querySelector(`.panel[id="${CSS.escape(location.hash.slice(1))}"]`));
addEventListener('hashchange', unfoldTarget);
unfoldTarget();

// Each code sample has a button that copies its text.
document.addEventListener('click', async ({ target }) => {
  const button = target.closest?.('[data-copy]');
  if (!button) return;
  const sample = button.parentElement.querySelector('code');
  try {
    await navigator.clipboard.writeText(sample.textContent);
  } catch {
    // Without https or permission the page cannot use the clipboard: select the text.
    getSelection().selectAllChildren(sample);
    return setText(button, 'selected');
  }
  setText(button, 'copied');
  setTimeout(() => setText(button, 'copy'), 2000);
});

const budgetText = document.getElementById('budget');
const showBudget = () => {
  const open = openStreams();
  budgetText.dataset.open = open.length;
  setText(budgetText, open.length ? 'budget-of' : 'budget', { open: open.length, limit: LIMIT, names: open.join(', ') });
};
budget.addEventListener('change', showBudget);
showBudget();

document.getElementById('has-eventsource').textContent = 'EventSource' in window;
offerOtherOrigin();
a.connect();
root.dataset.ready = '';
