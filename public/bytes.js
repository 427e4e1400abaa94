// The bytes of a stream made visible: one block for each read, line ends and control characters as \n, \r, \x00.

import { append, clip, empty } from './log.js';
import { clock } from './words.js';

export class ByteView {
  #utf8;

  constructor(pre) {
    this.pre = pre;
    this.restart();
  }

  // A new connection: no half character of the last one may leak into it.
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

const SIGNS = { '\r\n': '\\r\\n\n', '\n': '\\n\n', '\r': '\\r\n', '\uFEFF': '\\uFEFF' };

// In an element of its own, a sign does not pass for a backslash that was sent.
function visible(text) {
  return text.split(/(\r\n|[\0-\x08\n-\x1F\x7F\uFEFF])/).map((part, index) => {
    if (index % 2 === 0) return part;
    const sign = document.createElement('i');
    sign.textContent = SIGNS[part] ?? `\\x${part.charCodeAt(0).toString(16).padStart(2, '0')}`;
    return sign;
  });
}
