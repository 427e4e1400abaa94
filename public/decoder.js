// Decodes the bytes of an event stream into events: WHATWG HTML §9.2.6, "Interpreting an event
// stream". One Decoder reads one connection. An event that is incomplete when the connection ends
// is discarded, as the standard says.

export class Decoder {
  #utf8 = new TextDecoder();          // removes one leading BOM, replaces invalid UTF-8 with U+FFFD
  #partial = '';                      // the beginning of a line that has not ended yet
  #afterCr = false;                   // whether a LF that comes next belongs to the last CR
  #data = null;
  #type = '';
  #id;

  // `lastEventId` comes from the previous connection. By the standard it starts empty on each
  // connection, but browsers carry it over, and so does this class: otherwise a connection that is
  // lost before its first id could not be resumed.
  constructor({ lastEventId = '', onevent, onretry = () => {} }) {
    this.lastEventId = this.#id = lastEventId;
    this.onevent = onevent;
    this.onretry = onretry;
  }

  push(bytes) {
    let text = this.#utf8.decode(bytes, { stream: true });
    if (text === '') return;          // the bytes are an incomplete character
    if (this.#afterCr && text[0] === '\n') text = text.slice(1);
    // A line ends at its CR, even if a LF may follow: waiting for the LF would delay a complete
    // event.
    this.#afterCr = text.endsWith('\r');
    const lines = (this.#partial + text).split(/\r\n|\n|\r/);
    this.#partial = lines.pop();
    for (const line of lines) this.#line(line);
  }

  #line(line) {
    if (line === '') return this.#dispatch();
    const colon = line.indexOf(':');
    if (colon === 0) return;          // a comment
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (name === 'data') this.#data = this.#data === null ? value : `${this.#data}\n${value}`;
    else if (name === 'event') this.#type = value;
    else if (name === 'id' && !value.includes('\0')) this.#id = value;
    else if (name === 'retry' && /^[0-9]+$/.test(value)) this.onretry(Number(value));
  }

  #dispatch() {
    const event = { type: this.#type || 'message', data: this.#data, lastEventId: this.#id };
    this.lastEventId = this.#id;      // an event without data sets the id too
    this.#data = null;
    this.#type = '';
    if (event.data !== null) this.onevent(event);
  }
}
