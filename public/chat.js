// Sends data back to the server with POST /send-data, and shows the messages of all clients in the
// chat.

import { address } from './server.js';
import { problemText } from './raw.js';
import { append, clip } from './log.js';
import { textSpan, setText } from './words.js';

export const CHAT = {
  route: chatRoute, types: ['userconnect', 'usermessage', 'userdisconnect', 'gap'], onrejected: readWithoutName,
};

let name;

// Returns the path of the chat, with the name that panel I contained when the chat was first
// opened. The name stays until the page is closed, because panels share a stream only if their URLs
// are equal.
function chatRoute() {
  name ??= document.querySelector('#panel-i [data-role=username]').value.trim();
  this.present = name !== '';
  return '/channels/chat' + (name && `?presence=${encodeURIComponent(name)}`);
}

// Reads the chat without a name if the server has rejected the name: presence needs permission to
// publish.
function readWithoutName(panel) {
  if (!panel.present) return;
  name = '';
  panel.connect();
}

// Makes the panel's form send its text. The panel must have the parts `form`, `text`, `send` and
// `answer`, and may have `username`.
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
    return clip(data);      // other publishers may send data that is not JSON
  }
}
