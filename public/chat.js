// Sends data back to the server with POST /send-data, and shows the messages of all clients in the
// chat.

import { address } from './lab.js';
import { problemText } from './raw.js';
import { append, clip } from './log.js';
import { textSpan, setText } from './words.js';

export const CHAT = {
  route: () => path(), types: ['userconnect', 'usermessage', 'userdisconnect', 'gap'],
  onconnect(panel) { panel.presence = presence(); },
  onrejected: readWithoutName,
};

const panels = [];                    // all that are connected share one stream, so they have one path
let current;                          // the path of the open stream
let rejected;                         // a name that the server has rejected: presence needs permission to publish

const field = document.querySelector('#panel-i [data-role=username]');

function name() {
  const name = field.value.trim();
  return name === rejected ? '' : name;
}

function path() {
  if (!panels.some(panel => panel.connected)) current = pathOf({});
  return current;
}

function pathOf(query) {
  const all = new URLSearchParams({ ...(name() && { presence: name() }), ...query });
  return `/channels/chat?${all}`.replace(/\?$/, '');
}

const presence = () => new URLSearchParams(current.split('?')[1]).get('presence') ?? '';

function readWithoutName(panel) {
  if (!panel.presence) return;
  if (presence() === panel.presence) {       // the first of the panels that shared the stream
    rejected = panel.presence;
    current = pathOf({});
  }
  panel.connect();
}

// A name that is entered or changed while the chat is open opens its stream again under that name,
// after the last event.
field.addEventListener('change', () => {
  const open = panels.filter(panel => panel.connected);
  if (open.length === 0 || presence() === name()) return;
  const after = open[0].stream.lastId;
  for (const panel of open) panel.close();
  const [first, ...others] = open;
  current = pathOf(after && { last_event_id: after });
  first.connect(current);
  for (const panel of others) panel.connect();
});

// Makes the panel's form send its text. The panel must have the parts `form`, `text`, `send` and
// `answer`, and may have `username`.
export function sendForm(panel) {
  panels.push(panel);
  panel.on('form', 'submit', async event => {
    event.preventDefault();
    const text = panel.part('text');
    const message = text.value;
    const username = panel.part('username')?.value.trim();
    panel.part('send').disabled = true;
    setText(panel.part('answer'), 'sending');
    try {
      const response = await sendData({ message, ...(username && { username }) });
      setText(panel.part('answer'));
      panel.part('answer').textContent = clip(response);
      if (text.value === message) text.value = '';
      panel.note(panel.connected ? null : 'sent-not-connected');
    } catch (error) {
      setText(panel.part('answer'), 'not-sent', { why: error.message });
    }
    panel.part('send').disabled = false;
    text.focus();
  });
}

export async function sendData(body) {
  const response = await fetch(address('/send-data'), {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(problemText(response.status, text));
  return `${response.status} ${text}`;
}

export function showInChat(panel, event) {
  append(panel.part('list'), () => {
    const li = document.createElement('li');
    li.append(sentence(event));
    return li;
  });
}

function sentence({ type, data }) {
  try {
    const { username, time, text } = JSON.parse(data);
    if (type === 'userconnect') return textSpan('joined', { username, time });
    if (type === 'userdisconnect') return textSpan('left', { username, time });
    return clip(`${time} ${username}: ${text}`);
  } catch {
    return clip(data);      // other publishers may send data that is not JSON
  }
}
