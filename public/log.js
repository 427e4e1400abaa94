// Lists that grow. Each has at most CAP items, scrolls to its end unless the user has scrolled up,
// and takes text only. New items are added in batches, every 40 ms: with a layout for each item, a
// list could not keep up with ten thousand events.

import { clock, textSpan } from './words.js';

export const CAP = 200;
const LONGEST = 1000;
const WRITE_EVERY = 40;             // milliseconds

const positions = new WeakMap();    // by list: its scroll position, and whether it follows its end
const pending = new Map();          // by list: the functions that make the items not yet added
let timer;

// Adds an item. `make` creates it later, unless newer items push it out of the list before that.
export function append(list, make) {
  let items = pending.get(list);
  if (!items) pending.set(list, items = []);
  items.push(make);
  if (items.length >= 2 * CAP) items.splice(0, CAP);
  timer ??= setTimeout(settle, WRITE_EVERY);
}

// Adds all pending items now.
export function settle() {
  clearTimeout(timer);
  timer = undefined;
  for (const [list, items] of pending) {
    if (!positions.has(list)) watch(list);
    list.append(...items.slice(-CAP).map(make => make()));
    while (list.childElementCount > CAP) list.firstElementChild.remove();
    if (positions.get(list).following) list.scrollTop = list.scrollHeight;
  }
  pending.clear();
}

export function empty(list) {
  pending.delete(list);
  list.replaceChildren();
}

// Tracks whether a list follows its end. A list stops following only when the user scrolls up; not
// being at the end is no sign of that, because a list that becomes narrower is not at its end
// either.
function watch(list) {
  const position = { top: 0, following: true };
  positions.set(list, position);
  list.addEventListener('scroll', () => {
    if (list.scrollHeight - list.scrollTop - list.clientHeight < 24) position.following = true;
    else if (list.scrollTop < position.top) position.following = false;
    position.top = list.scrollTop;
  }, { passive: true });
}

export function item(text) {
  const clipped = clip(text);
  return () => {
    const li = document.createElement('li');
    li.textContent = clipped;
    return li;
  };
}

// kind: `event`, `gap` (events that the server reports lost), `sent`, or `state` (a change of the
// connection). `words` replaces `data`: the key of a text and its values.
export function row(kind, { type = '', id = '', data = '', words, replayed = false }) {
  const at = new Date(), clipped = clip(data);
  return () => {
    const li = document.createElement('li');
    li.dataset.kind = kind;
    if (replayed) li.dataset.replayed = '';
    const text = field('data', clipped);
    if (clipped.length > 60) text.title = clipped;       // a row has one line on a wide screen
    if (words) text.append(textSpan(...words));
    li.append(field('time', clock(at)), field('type', type), field('id', id), text);
    return li;
  };
}

export function clip(text) {
  return text.length <= LONGEST ? text : `${text.slice(0, LONGEST)}… (+${text.length - LONGEST})`;
}

function field(name, text) {
  const span = document.createElement('span');
  span.dataset.field = name;
  span.textContent = text;
  return span;
}

// The bytes of a stream: one block for each read, with line ends and control characters as \n, \r,
// \x00.
export class ByteView {
  #utf8;

  constructor(pre) {
    this.pre = pre;
    this.restart();
  }

  // Prepares for the bytes of a new connection: drops an incomplete character of the last
  // connection.
  restart() {
    this.#utf8 = new TextDecoder('utf-8', { ignoreBOM: true });
  }

  push(bytes) {
    const text = this.#utf8.decode(bytes, { stream: true });
    this.#block('mark', `${clock()} · ${bytes.length} B\n`);
    this.#block('chunk', ...visible(clip(text)), '\n');
  }

  mark(text) {
    this.#block('mark', `${text}\n`);
  }

  clear() {
    empty(this.pre);
  }

  #block(name, ...parts) {
    append(this.pre, () => {
      const span = document.createElement('span');
      span.dataset.field = name;
      span.append(...parts);
      return span;
    });
  }
}

const ESCAPES = { '\r\n': '\\r\\n\n', '\n': '\\n\n', '\r': '\\r\n', '\uFEFF': '\\uFEFF' };

// Each escape has its own element, so that it looks different from a backslash in the data.
function visible(text) {
  return text.split(/(\r\n|[\0-\x08\n-\x1F\x7F\uFEFF])/).map((part, index) => {
    if (index % 2 === 0) return part;
    const escape = document.createElement('i');
    escape.textContent = ESCAPES[part] ?? `\\x${part.charCodeAt(0).toString(16).padStart(2, '0')}`;
    return escape;
  });
}
