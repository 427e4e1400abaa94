// Sends data back to the server with POST /send-data, and shows the messages of all clients in the chat.

import { address } from './server.js';
import { problemText } from './raw.js';
import { append, clip } from './log.js';
import { textSpan, setText } from './words.js';

export const CHAT = {
  route: chatRoute, types: ['userconnect', 'usermessage', 'userdisconnect', 'gap'], onrejected: readWithoutName,
};

let name;

// The name in panel I when the chat is first opened stays in use until the page is closed.
// Panels with the same URL share a stream, so the URL must not change.
function chatRoute() {
  name ??= document.querySelector('#panel-i [data-role=username]').value.trim();
  this.present = name !== '';
  return '/channels/chat' + (name && `?presence=${encodeURIComponent(name)}`);
}

// Presence needs permission to publish. Without it, the page reads the chat without a name.
function readWithoutName(panel) {
  if (!panel.present) return;
  name = '';
  panel.connect();
}

// The panel has the parts `form`, `text`, `send` and `answer`, and optionally `username`.
export function sendForm(panel) {
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

export const sendData = body => post('/send-data', body);

export async function post(route, body) {
  const response = await fetch(address(route), {
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
    return clip(data);      // other publishers to the channel need not send JSON
  }
}
