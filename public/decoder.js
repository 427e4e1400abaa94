// An event stream's bytes into events: WHATWG HTML §9.2.6, "Interpreting an event stream".
// One Decoder reads one connection; an event that is not finished when it ends is lost, as the standard says.

export class Decoder {
  #utf8 = new TextDecoder();          // drops one leading BOM, puts U+FFFD for what is not UTF-8
  #rest = '';                         // the line that has not ended yet
  #afterCr = false;                   // a LF that comes next belongs to a line that has already ended
  #data = null;
  #type = '';
  #id;

  // `lastEventId` carries over from the connection before. The standard starts it empty on each;
  // browsers carry it over, and without that a second drop would forget where the reader was.
  constructor({ lastEventId = '', onevent, onretry = () => {} }) {
    this.lastEventId = this.#id = lastEventId;
    this.onevent = onevent;
    this.onretry = onretry;
  }

  push(bytes) {
    let text = this.#utf8.decode(bytes, { stream: true });
    if (text === '') return;          // half a character: still nothing new
    if (this.#afterCr && text[0] === '\n') text = text.slice(1);
    // A line ends at its CR. Waiting to see whether a LF follows would hold a finished event back.
    this.#afterCr = text.endsWith('\r');
    const lines = (this.#rest + text).split(/\r\n|\n|\r/);
    this.#rest = lines.pop();
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
    this.lastEventId = this.#id;      // also when there was no data: a bare id moves the reader on
    this.#data = null;
    this.#type = '';
    if (event.data !== null) this.onevent(event);
  }
}
