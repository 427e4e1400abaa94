// Sending back: POST /send-data, and the chat that shows what everybody sent.

import { address } from './server.js';
import { problemOf } from './raw.js';
import { append, clip } from './log.js';
import { said, say } from './words.js';

export const CHAT = {
  route: chatRoute, types: ['userconnect', 'usermessage', 'userdisconnect', 'gap'], onrefused: readWithoutName,
};

let name;

// Who has filled in a name when the chat is first opened is present under it, until the page is closed:
// panels share the stream by its URL, so that has to stay the same.
function chatRoute() {
  name ??= document.querySelector('#panel-i [data-role=username]').value.trim();
  this.present = name !== '';
  return '/channels/chat' + (name && `?presence=${encodeURIComponent(name)}`);
}

// Presence needs what publishing needs. A page that may not publish reads the chat without a name.
function readWithoutName(panel) {
  if (!panel.present) return;
  name = '';
  panel.connect();
}

// The panel's form has `text`, `send`, an `answer`, and perhaps a `username`.
export function sendForm(panel) {
  panel.on('form', 'submit', async event => {
    event.preventDefault();
    const text = panel.part('text');
    const message = text.value;
    const username = panel.part('username')?.value.trim();
    panel.part('send').disabled = true;
    say(panel.part('answer'), 'sending');
    try {
      const answer = await sendData({ message, ...(username && { username }) });
      say(panel.part('answer'));
      panel.part('answer').textContent = clip(answer);
      if (text.value === message) text.value = '';
      panel.note(panel.connected ? null : 'sent-unheard');
    } catch (error) {
      say(panel.part('answer'), 'not-sent', { why: error.message });
    }
    panel.part('send').disabled = false;
    text.focus();
  });
}

export const sendData = body => post('/send-data', body);

export async function post(route, body) {
  const answer = await fetch(address(route), {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
  });
  const text = await answer.text();
  if (!answer.ok) throw new Error(problemOf(answer.status, text));
  return `${answer.status} ${text}`;
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
    if (type === 'userconnect') return said('came', { username, time });
    if (type === 'userdisconnect') return said('left', { username, time });
    return clip(`${time} ${username}: ${text}`);
  } catch {
    return clip(data);      // anybody may publish to the channel, and not all of it need be JSON
  }
}
