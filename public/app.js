// The demo page: creates each panel with the demo stream that it reads and with what it does
// besides showing events. An event passes from raw.js or the browser's EventSource through
// streams.js and panel.js to log.js and timeline.js.

import { StreamPanel } from './panel.js';
import { WebSocketPanel } from './websocket.js';
import { CHAT, sendForm, showInChat } from './chat.js';
import { append, item } from './log.js';
import { budget, LIMIT, openStreams } from './streams.js';
import { offerOtherOrigin } from './server.js';
import { channelPanel } from './channel.js';
import { breakIt } from './breakit.js';
import { copyButtons } from './copy.js';
import { compare } from './comparison.js';
import { findLab } from './lab.js';
import { settings } from './settings.js';
import { timeline } from './timeline.js';
import { setText, setLanguage } from './words.js';

const root = document.documentElement;
await Promise.all([setLanguage(root.lang), findLab()]);

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
    if (event.type === 'end') panel.close('closed-on-end');
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

new StreamPanel('g', { route: '/count', onevent: (panel, event) => list(panel, event.data) });

const socket = new WebSocketPanel('h-ws');
const stream = new StreamPanel('h-sse', { ...CHAT });
sendForm(stream);
compare(socket, stream);

sendForm(new StreamPanel('i', { ...CHAT, onevent: showInChat }));

channelPanel();
breakIt();

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
