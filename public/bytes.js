// Shows the bytes of a stream: one block for each read, with line ends and control characters as
// \n, \r, \x00.

import { append, clip, empty } from './log.js';
import { clock } from './words.js';

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
