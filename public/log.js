// Lists that grow: every one is capped, follows its end unless the reader has scrolled away, and takes text only.
// What comes is written a few times a second, together: a list that is laid out anew for each of ten thousand
// events would show none of them.

import { clock, said } from './words.js';

export const CAP = 200;
const LONGEST = 1000;
const WRITE_EVERY = 40;             // milliseconds

const readers = new WeakMap();      // how far each list was scrolled, and whether it follows its end
const waiting = new Map();          // by list, what makes each item that is still to be written
let timer;

// `make` makes the item, if it is not pushed out of the list before it is ever shown.
export function append(list, make) {
  let items = waiting.get(list);
  if (!items) waiting.set(list, items = []);
  items.push(make);
  if (items.length >= 2 * CAP) items.splice(0, CAP);
  timer ??= setTimeout(settle, WRITE_EVERY);
}

// Writes what is waiting now.
export function settle() {
  clearTimeout(timer);
  timer = undefined;
  for (const [list, items] of waiting) {
    if (!readers.has(list)) watch(list);
    list.append(...items.slice(-CAP).map(make => make()));
    while (list.childElementCount > CAP) list.firstElementChild.remove();
    if (readers.get(list).following) list.scrollTop = list.scrollHeight;
  }
  waiting.clear();
}

export function empty(list) {
  waiting.delete(list);
  list.replaceChildren();
}

// Only going up ends the following: a list that grows narrower is also off its end, and nobody scrolled it.
function watch(list) {
  const reader = { top: 0, following: true };
  readers.set(list, reader);
  list.addEventListener('scroll', () => {
    if (list.scrollHeight - list.scrollTop - list.clientHeight < 24) reader.following = true;
    else if (list.scrollTop < reader.top) reader.following = false;
    reader.top = list.scrollTop;
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

// kind: `event` (came), `replayed` (came again after a loss), `gap` (is said to be lost), `sent` (went), `state`
// (happened to the connection). `words` is what is said instead of data: a key and its values.
export function row(kind, { type = '', id = '', data = '', words, replayed = false }) {
  const at = new Date(), clipped = clip(data);
  return () => {
    const li = document.createElement('li');
    li.dataset.kind = kind;
    if (replayed) li.dataset.replayed = '';
    const text = field('data', clipped);
    if (words) text.append(said(...words));
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
