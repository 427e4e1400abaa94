// The page: which panel reads which recipe, and what each does beyond showing its events.
// The way of an event: raw.js or the browser's EventSource → streams.js → panel.js → log.js, and timeline.js.

import { StreamPanel } from './panel.js';
import { WebSocketPanel } from './websocket.js';
import { CHAT, sendForm, showInChat } from './chat.js';
import { append, item } from './log.js';
import { budget, LIMIT, openStreams } from './streams.js';
import { offerTheOtherOrigin } from './server.js';
import { channelPanel } from './channel.js';
import { breakIt } from './breakit.js';
import { copyButtons } from './copy.js';
import { duel } from './duel.js';
import { findLab } from './lab.js';
import { settings } from './settings.js';
import { timeline } from './timeline.js';
import { say, speak } from './words.js';

const root = document.documentElement;
await Promise.all([speak(root.lang), findLab()]);

timeline();
copyButtons();
settings();

const list = (panel, text) => append(panel.part('list'), item(text));

const a = new StreamPanel('a', { route: '/stream', types: ['connecttime'] });

new StreamPanel('b', { route: '/sse', types: ['custom-event'] });

new StreamPanel('c', {
  route: '/api/sse', types: ['update', 'hi', 'end'], withCredentials: true,
  onevent(panel, event) {
    list(panel, `[${event.lastEventId || 0}] ${event.data}`);
    if (event.type === 'end') panel.close('said-end');
  },
});

// D does not ask for customEvent, so it never sees it, though E's events come by the same source.
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

new StreamPanel('g', { route: '/count', onevent: (panel, event) => list(panel, event.data) });

const socket = new WebSocketPanel('h-ws');
const stream = new StreamPanel('h-sse', { ...CHAT });
sendForm(stream);
duel(socket, stream);

sendForm(new StreamPanel('i', { ...CHAT, onevent: showInChat }));

channelPanel();
breakIt();

const shown = document.getElementById('budget');
const showBudget = () => {
  const open = openStreams();
  shown.dataset.open = open.length;
  say(shown, open.length ? 'budget-of' : 'budget', { open: open.length, limit: LIMIT, names: open.join(', ') });
};
budget.addEventListener('change', showBudget);
showBudget();

document.getElementById('has-eventsource').textContent = 'EventSource' in window;
offerTheOtherOrigin();
a.connect();
root.dataset.ready = '';
