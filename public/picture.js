// The picture: a cell for each thread of the server and, beside them, the one thread of the event
// loop with a dot for each of its clients. Both are drawn ten times a second, from the frames of
// /lab/watch.

import { meaning } from './waits.js';
import { languageChanges, number, setText, t } from './words.js';

// What a thread does, in the order of the legend, with the colour of its cells.
const STATES = [
  ['asleep', '--cell'], ['running', '--woad'], ['runnable', '--weld'], ['request', '--indigo'], ['room', '--plum'], ['disk', '--lost'],
];
// What a client of the event loop sees, by the time since its last event.
const DOTS = [['fresh', '--moss'], ['late', '--weld'], ['silent', '--lost'], ['stuck', '--plum']];

const LANES = 50;                   // with fewer connections, each thread has a lane, else a cell
const CHIPS_REM = 8;                // in a lower picture, the server's own threads are cells too
const MANY = 100;                   // with more threads, no lane is kept
const LANE_MS = 10_000;             // the time from a lane's left edge to its right edge
const STRIP_MS = 60_000;            // the same for the line of the longest silence
const STRIPS_MS = 450;              // between two drawings of these lines: a minute is some 600 pixels wide
const GLOW_MS = 900;                // how long a cell shows that its thread has run
const HELD_MS = 1_500;              // how long a label stays after its thread has left the disk
const STEP_MS = 20;                 // of the letters of silences, and of a turn of the event loop
const WINDOW_MS = 10_000;           // of the longest silence that is shown as a figure

const still = matchMedia('(prefers-reduced-motion: reduce)');

// Calls `each` with the letter of each place in a text with run lengths: 3ab is aaab.
function places(text, each) {
  let at = 0, count = 0;
  for (let n = 0; n < text.length; n++) {
    const code = text.charCodeAt(n);
    if (code >= 48 && code <= 57) count = count * 10 + code - 48;
    else {
      for (let left = count || 1; left > 0; left--) each(text[n], at++);
      count = 0;
    }
  }
  return at;
}

// What the frames have shown so far. Times are those of the frames, in milliseconds.
export class Model {
  acts = [];

  constructor() { this.clear(); }

  clear() {
    this.at = 0;
    this.names = [];
    this.cells = [];                // of each place: state, kernel function, since, when it ran last
    this.dots = [];                 // of each client of the event loop: its state
    this.reddened = [];             // of each client: when it was last silent
    this.lane = [];                 // of the event loop: [at, state, part of the time it ran]
    this.silences = { threads: [], loop: [] };
    this.clients = { threads: 0, loop: 0 };
    this.alarm = -Infinity;         // when a thread last waited for the disk, or a client was silent
  }

  // Shows a frame. With `onlySilences`, only what the lines of the silences need is kept.
  apply(frame, rate, acts, onlySilences = false) {
    const { at } = frame;
    if (at < this.at) this.clear();
    this.at = at;
    this.acts = acts;
    this.#silences(frame, at);
    if (onlySilences) return;
    // What each letter means: the same for all cells, so it is found once.
    const kinds = frame.kinds.map(([state, waitsFor]) => ({ what: meaning(state, waitsFor), waitsFor }));
    const unread = { what: 'unknown', waitsFor: '' };
    const count = places(frame.threads, (letter, index) => {
      if (letter === '.') delete this.cells[index];
      else this.#cell(index, kinds[(letter.charCodeAt(0) | 32) - 97] ?? unread, letter < 'a' && letter !== '?');
    });
    this.cells.length = count;
    const lane = frame.lane ?? '';
    for (let n = 0; n < lane.length; n += 2) {
      this.lane.push([at - (lane.length - n) / 2 * STEP_MS, (kinds[lane.charCodeAt(n) - 97] ?? unread).what, Number(lane[n + 1]) / 9]);
    }
    if (frame.lane == null) this.lane = [];
    this.lane = this.lane.filter(([when]) => when > at - LANE_MS);
    this.#dots(frame.loop?.dots ?? '', rate);
  }

  #silences(frame, at) {
    for (const [side, { clients = 0, silent_ms: silent }] of [['threads', frame.clients ?? {}], ['loop', frame.loop ?? {}]]) {
      this.clients[side] = clients;
      const line = this.silences[side];
      line.push([at, clients > 0 ? silent ?? null : null]);
      while (line[0][0] < at - STRIP_MS) line.shift();
    }
  }

  #cell(index, { what, waitsFor }, hasRun) {
    const { at } = this;
    const [id, name] = this.names[index] ?? [];
    if (what === 'room' && name?.startsWith('accept')) what = 'accept';
    let cell = this.cells[index];
    if (!cell || (cell.id ?? id) !== id) cell = this.cells[index] = { since: at, ran: -Infinity, disk: -Infinity, lane: [] };
    cell.id = id;
    if (cell.what !== what) cell.since = at;
    cell.what = what;
    cell.waitsFor = waitsFor;
    if (hasRun) cell.ran = at;
    if (what === 'disk') cell.disk = this.alarm = at;
    if (this.cells.length > MANY) {
      cell.lane.length = 0;
      return;
    }
    cell.lane.push([at, shownAs(what), hasRun]);
    while (cell.lane[0][0] < at - LANE_MS) cell.lane.shift();
  }

  #dots(text, rate) {
    const period = rate > 0 ? 1000 / rate : Infinity;
    this.dots.length = places(text, (letter, index) => {
      const late = (letter.charCodeAt(0) - 97) * STEP_MS - period;
      const dot = letter === '.' ? null : letter === '-' ? 'stuck' : late > 80 ? 'silent' : late > 30 ? 'late' : 'fresh';
      if (dot === 'silent') this.reddened[index] = this.alarm = this.at;
      this.dots[index] = dot;
    });
  }

  // The longest silence of a client within the window, in milliseconds.
  longest(side) {
    const recent = this.silences[side].filter(([at]) => at > this.at - WINDOW_MS).map(([, silent]) => silent);
    return recent.at(-1) == null ? null : Math.max(...recent);
  }
}

// Most waits look alike: the thread is asleep.
const COLOURS = Object.fromEntries([...STATES, ...DOTS]);
const shownAs = what => what in COLOURS ? what : 'asleep';

export class Picture {
  #threads = new Canvas('threads-canvas');
  #loop = new Canvas('loop-canvas');
  #strips = { threads: new Canvas('threads-strip'), loop: new Canvas('loop-strip') };
  #legends = { threads: legend('threads-legend', 'state', STATES), loop: legend('loop-legend', 'dot', DOTS) };
  #hit = { threads: () => undefined, loop: () => undefined };
  #chosen = {};
  #drawn = 0;
  #stripsDrawn = 0;                 // when the lines of the silences were drawn last
  #frames = 0;
  #told = 0;

  constructor(model) {
    this.model = model;
    const redraw = () => {
      colours.clear();
      sizes.clear();
      this.draw(true);
    };
    languageChanges.addEventListener('change', redraw);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
    new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ['data-theme', 'data-size'] });
    new ResizeObserver(redraw).observe(document.getElementById('picture'));
    for (const side of ['threads', 'loop']) this.#explore(side);
  }

  draw(always = false) {
    const now = performance.now();
    // With reduced motion, the picture changes once a second.
    if (!always && still.matches && now - this.#drawn < 950) return;
    // If no thread waits, each second frame is drawn.
    const isCalm = this.model.at - this.model.alarm > HELD_MS;
    if (this.#frames++ % 2 && isCalm && !always) return;
    this.#drawn = now;
    this.#drawThreads(always);
    this.#drawLoop(always);
    if (always || now - this.#stripsDrawn > STRIPS_MS) this.#drawStrips(now);
    this.#count();
    if (always || now - this.#told > 950) {
      this.#told = now;
      this.#tell();
    }
  }

  #drawStrips(now) {
    this.#stripsDrawn = now;
    const top = Math.max(100, ...['threads', 'loop'].flatMap(side => this.model.silences[side].map(([, silent]) => silent ?? 0)));
    for (const side of ['threads', 'loop']) this.#drawStrip(side, top);
  }

  #drawThreads(always) {
    const { cells, names, at } = this.model;
    const own = [], connections = [], blocked = [];
    const hasChips = this.#threads.fits(CHIPS_REM);
    cells.forEach((cell, index) => {
      (hasChips && names[index]?.[1] && !names[index][1].startsWith('sse-') ? own : connections).push(index);
      if (at - cell.disk < HELD_MS) blocked.push(index);
    });
    // Usually a few cells have changed, and only these are drawn.
    const layout = `${own.map(index => names[index][1])} ${connections.length}`;
    const isPlain = blocked.length === 0 && this.#chosen.threads === undefined && connections.length >= LANES;
    const { pen, width, colour, rem } = this.#threads.begin(always || !isPlain || !this.#threads.isPlain || this.#threads.layout !== layout);
    Object.assign(this.#threads, { layout, isPlain });
    // The server's own threads are chips with names.
    pen.font = `${.72 * rem}px ${colour('--mono-font')}`;
    pen.textBaseline = 'middle';
    const chips = [];
    let x = 0, y = 0;
    const high = 1.35 * rem, gap = .3 * rem;
    for (const index of own) {
      const name = names[index][1];
      const wide = pen.measureText(name).width + .8 * rem;
      if (x + wide > width) [x, y] = [0, y + high + gap];
      pen.clearRect(x, y, wide, high);
      pen.beginPath();
      pen.roundRect(x, y, wide, high, .2 * rem);
      let alphas = 0;
      for (const [fill, alpha] of this.#looks(cells[index])) {
        pen.globalAlpha = alpha;
        pen.fillStyle = colour(fill);
        pen.fill();
        alphas = fill === '--cell' ? 0 : alpha;
      }
      pen.globalAlpha = 1;
      pen.fillStyle = colour(alphas > .5 ? '--cloth' : '--ink');
      pen.fillText(name, x + .4 * rem, y + high / 2 + 1);
      chips.push([x, y, wide, high, index]);
      x += wide + gap;
    }
    const top = this.#threads.top = own.length ? y + high + .6 * rem : 0;
    const boxes = connections.length < LANES ? this.#drawLanes(connections, top) : this.#drawCells(connections, top);
    const all = [...chips, ...boxes];
    this.#label(all.filter(([, , , , index]) => blocked.includes(index) && !own.includes(index)), 'picture.disk');
    const chosen = all.find(box => box[4] === this.#chosen.threads);
    if (chosen) outline(pen, colour('--ink'), chosen);
    this.#hit.threads = (left, up) => all.find(([x, y, w, h]) => left >= x && left < x + w && up >= y && up < y + h)?.[4];
    this.#threads.order = [...own, ...connections];
  }

  // Returns the colours of a cell, each with its opacity: that of its state, and the glow of a thread
  // that has run.
  #looks(cell) {
    const shown = shownAs(cell.what);
    if (this.model.at - cell.disk < HELD_MS / 2) return [['--lost', 1]];
    const looks = [[COLOURS[shown], 1]];
    const since = this.model.at - cell.ran;
    if (shown === 'asleep' && since < GLOW_MS) looks.push(['--woad', still.matches ? .6 : Math.ceil(4 * (1 - since / GLOW_MS)) / 5]);
    return looks;
  }

  #drawCells(connections, top) {
    const { pen, width, height, rem } = this.#threads;
    const { size, across } = grid(connections.length, width, height - top, rem);
    const gap = size > 8 ? 2 : size > 4 ? 1 : .5;
    const boxes = connections.map((index, n) => [n % across * size, top + Math.floor(n / across) * size, size, size, index]);
    // Cells of one colour are drawn together, because each change of the colour costs time.
    const layers = new Map(), { shown } = this.#threads;
    for (const [n, box] of boxes.entries()) {
      const looks = this.#looks(this.model.cells[box[4]]);
      const look = looks.join();
      if (shown[n] === look) continue;
      shown[n] = look;
      for (const [fill, alpha] of looks) {
        const key = `${alpha} ${fill}`;
        if (!layers.has(key)) layers.set(key, []);
        layers.get(key).push(box);
      }
    }
    for (const [key, cells] of [...layers].sort(([one], [other]) => parseFloat(other) - parseFloat(one))) {
      const [alpha, fill] = key.split(' ');
      pen.globalAlpha = Number(alpha);
      pen.fillStyle = colour(fill);
      for (const [x, y] of cells) pen.fillRect(x, y, size - gap, size - gap);
    }
    pen.globalAlpha = 1;
    return boxes;
  }

  #drawLanes(connections, top) {
    const { pen, width, height, colour, rem } = this.#threads;
    const high = Math.min(1.3 * rem, (height - top) / Math.max(1, connections.length));
    const start = high > .9 * rem ? 6 * rem : 0;
    return connections.map((index, n) => {
      const { lane } = this.model.cells[index];
      const y = top + n * high;
      const x = at => start + (1 - (this.model.at - at) / LANE_MS) * (width - start);
      for (const [at, state, ran] of lane) {
        pen.fillStyle = colour(ran && state === 'asleep' ? '--woad' : COLOURS[state]);
        pen.fillRect(x(at - 100), y + 1, Math.ceil(x(at) - x(at - 100)), high - 2);
      }
      if (start) {
        pen.fillStyle = colour('--soft');
        pen.fillText(this.model.names[index]?.[1] ?? '', 0, y + high / 2);
      }
      return [0, y, width, high, index];
    });
  }

  #drawLoop(always) {
    const { dots, lane, at } = this.model;
    const isPlain = this.#chosen.loop === undefined, isOff = dots.length === 0 && lane.length === 0;
    const layout = `${dots.length} ${isOff}`;
    const { pen, width, height, colour, rem, shown } = this.#loop.begin(always || !isPlain || !this.#loop.isPlain || this.#loop.layout !== layout);
    Object.assign(this.#loop, { layout, isPlain });
    const high = 1.9 * rem, top = high + .6 * rem;
    pen.clearRect(0, 0, width, high);
    pen.fillStyle = colour('--cell');
    pen.fillRect(0, 0, width, high);
    const x = when => (1 - (at - when) / LANE_MS) * width;
    const wide = Math.ceil(STEP_MS / LANE_MS * width) + .5;
    pen.fillStyle = colour('--woad');
    for (const [when, , part] of lane) pen.fillRect(x(when), high * (1 - part), wide, high * part);
    pen.fillStyle = colour('--lost');
    const blocked = blocks(lane);
    for (const [from, to] of blocked) pen.fillRect(x(from), 0, x(to) - x(from) + wide, high);
    if (blocked.length > 0 && blocked.at(-1)[1] > at - HELD_MS) this.#label([[x(blocked.at(-1)[0]), 0, 0, high, blocked.at(-1)[2]]], null);
    if (isOff && !shown.isOff) {
      shown.isOff = true;
      pen.font = `${rem}px ${colour('--sans-font')}`;
      pen.textBaseline = 'middle';
      pen.textAlign = 'center';
      pen.fillStyle = colour('--soft');
      pen.fillText(t('picture.loop.off'), width / 2, (top + height) / 2);
      pen.textAlign = 'left';
    }
    const { size, across } = grid(dots.length, width, height - top, rem);
    const boxes = dots.map((dot, n) => {
      const [left, up] = [n % across * size, top + Math.floor(n / across) * size];
      const red = dot && dot !== 'stuck' && at - this.model.reddened[n] < GLOW_MS / 2;
      const look = red ? '--lost' : COLOURS[dot];
      if (shown[n] !== look) {
        shown[n] = look;
        pen.clearRect(left, up, size, size);
        if (look) pen.drawImage(disc(look, size), left, up, size, size);
      }
      return [left, up, size, size, n];
    });
    const chosen = boxes[this.#chosen.loop];
    if (chosen) outline(pen, colour('--ink'), chosen);
    this.#hit.loop = (left, up) => up < top ? undefined : boxes.find(([x, y, w, h]) => left >= x && left < x + w && up >= y && up < y + h)?.[4];
    this.#loop.order = dots.map((_, n) => n);
  }

  // Writes what happens beside a red cell, or over a red part of the event loop's lane.
  #label(boxes, key) {
    const canvas = key ? this.#threads : this.#loop;
    const { pen, width, colour, rem } = canvas;
    pen.font = `600 ${.85 * rem}px ${colour('--sans-font')}`;
    pen.textBaseline = 'middle';
    for (const [x, y, wide, high, what] of boxes.slice(-3)) {
      const text = t(key ?? `picture.blocked.${what}`);
      const long = pen.measureText(text).width + .8 * rem;
      const left = Math.max(0, Math.min(key ? x + wide / 2 - long / 2 : x - long - .3 * rem, width - long));
      // Above the first cells are the chips, so the label is below them.
      const up = !key ? .25 * rem : y - 1.7 * rem < canvas.top ? y + high + .4 * rem : y - 1.7 * rem;
      if (key) outline(pen, colour('--lost'), [x - 2, y - 2, wide + 2, high + 2]);
      pen.fillStyle = colour('--lost');
      pen.beginPath();
      pen.roundRect(left, up, long, 1.4 * rem, .2 * rem);
      pen.fill();
      pen.fillStyle = colour('--cloth');
      pen.fillText(text, left + .4 * rem, up + .72 * rem);
    }
  }

  #drawStrip(side, top) {
    const { pen, width, height, colour, rem } = this.#strips[side].begin(true);
    const { at, acts } = this.model;
    const left = 3.3 * rem, base = height - 1.1 * rem;
    const x = when => left + (1 - (at - when) / STRIP_MS) * (width - left);
    const y = silent => base - silent / top * (base - .5 * rem);
    pen.font = `${.7 * rem}px ${colour('--sans-font')}`;
    pen.textBaseline = 'middle';
    pen.lineWidth = 1;
    for (const [value, text] of [[0, '0'], [top, `${Math.round(top)} ms`]]) {
      pen.strokeStyle = colour('--line');
      pen.beginPath();
      pen.moveTo(left, Math.round(y(value)) + .5);
      pen.lineTo(width, Math.round(y(value)) + .5);
      pen.stroke();
      pen.fillStyle = colour('--soft');
      pen.textAlign = 'right';
      pen.fillText(text, left - .3 * rem, y(value));
    }
    for (const [seconds, align] of [[60, 'left'], [30, 'center'], [0, 'right']]) {
      if (seconds === 30 && width < 16 * rem) continue;
      pen.textAlign = align;
      pen.fillText(seconds ? t('picture.ago', { seconds }) : t('picture.now'), x(at - seconds * 1000), height - .5 * rem);
    }
    pen.textAlign = 'left';
    pen.strokeStyle = colour('--soft');
    pen.setLineDash([3, 3]);
    let taken = width;                // where the name of the act after this one begins
    for (const act of acts.filter(act => act.at > at - STRIP_MS).reverse()) {
      const line = Math.round(x(act.at)) + .5, name = t(`mark.${act.name}`);
      pen.beginPath();
      pen.moveTo(line, .2 * rem);
      pen.lineTo(line, base);
      pen.stroke();
      const long = pen.measureText(name).width, start = Math.min(line + .25 * rem, width - long);
      if (start + long > taken) continue;
      pen.fillText(name, start, .6 * rem);
      taken = start - .5 * rem;
    }
    pen.setLineDash([]);
    pen.strokeStyle = colour(side === 'loop' ? '--lost' : '--woad');
    pen.lineWidth = 2;
    pen.lineJoin = 'round';
    pen.beginPath();
    let draws = false;
    for (const [when, silent] of this.model.silences[side]) {
      if (silent == null) draws = false;
      else {
        pen[draws ? 'lineTo' : 'moveTo'](x(when), y(silent));
        draws = true;
      }
    }
    pen.stroke();
  }

  #count() {
    const { cells, dots } = this.model;
    const states = {}, seen = {};
    cells.forEach(({ what }) => { states[shownAs(what)] = (states[shownAs(what)] ?? 0) + 1; });
    for (const dot of dots) seen[dot] = (seen[dot] ?? 0) + 1;
    for (const [name, element] of Object.entries(this.#legends.threads)) write(element, states[name] ?? 0);
    for (const [name, element] of Object.entries(this.#legends.loop)) write(element, seen[name] ?? 0);
  }

  // Updates the texts: the numbers of threads and clients, and the chosen thread.
  #tell() {
    const { cells, dots, clients } = this.model;
    const total = cells.filter(Boolean).length;
    setText(document.getElementById('threads-total'), 'picture.threads', { threads: total });
    setText(document.getElementById('loop-total'), dots.length || clients.loop ? 'picture.loop' : '', { clients: dots.length });
    for (const side of ['threads', 'loop']) this.#read(side);
  }

  // Shows the chosen thread, or the chosen client of the event loop.
  #read(side) {
    const { cells, names, dots, at } = this.model;
    const chosen = this.#chosen[side];
    const readout = document.getElementById(`${side}-readout`);
    const explorer = document.getElementById(`${side}-explorer`);
    const cell = side === 'threads' ? cells[chosen] : undefined;
    if (cell) {
      const values = {
        name: names[chosen]?.[1] ?? '', id: names[chosen]?.[0] ?? '', seconds: Math.round((at - cell.since) / 100) / 10,
        what: t(`state.${shownAs(cell.what)}`), wait: t(`wait.${cell.what}`), raw: cell.waitsFor,
      };
      setText(readout, cell.waitsFor ? 'picture.thread' : 'picture.thread.busy', values);
    } else if (side === 'loop' && dots[chosen]) setText(readout, 'picture.client', { number: chosen + 1, what: t(`dot.${dots[chosen]}`) });
    else setText(readout, `picture.hint.${side}`);
    explorer.setAttribute('aria-valuemax', Math.max(0, (side === 'threads' ? cells : dots).length - 1));
    explorer.setAttribute('aria-valuenow', chosen ?? 0);
    explorer.setAttribute('aria-valuetext', `${document.getElementById(`${side}-total`).textContent} ${readout.textContent}`);
  }

  // The pointer or the arrow keys choose a cell.
  #explore(side) {
    const explorer = document.getElementById(`${side}-explorer`);
    const canvas = side === 'threads' ? this.#threads : this.#loop;
    const choose = chosen => {
      if (this.#chosen[side] === chosen) return;
      this.#chosen[side] = chosen;
      this.#read(side);
      this.draw(true);
    };
    explorer.addEventListener('pointermove', ({ offsetX, offsetY }) => choose(this.#hit[side](offsetX, offsetY)));
    explorer.addEventListener('pointerleave', () => choose(undefined));
    explorer.addEventListener('blur', () => choose(undefined));
    explorer.addEventListener('keydown', event => {
      const order = canvas.order ?? [];
      const at = order.indexOf(this.#chosen[side]);
      const to = {
        ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: order.length - 1,
        PageDown: at + 10, PageUp: at - 10,
      }[event.key];
      if (to === undefined || order.length === 0) return;
      event.preventDefault();
      choose(order[Math.max(0, Math.min(to, order.length - 1))]);
    });
  }
}

// A canvas that is as large as its element, with the colours of the page.
class Canvas {
  constructor(id) {
    this.element = document.getElementById(id);
    this.pen = this.element.getContext('2d');
  }

  // The width and the height, in CSS pixels. To read them costs a layout, so they are read only when
  // they can have changed.
  get size() {
    if (!sizes.has(this)) sizes.set(this, [this.element.clientWidth, this.element.clientHeight]);
    return sizes.get(this);
  }

  fits(rems) { return this.size[1] >= rems * Number(colour('rem')); }

  // Prepares to draw: everything, or only what differs from `shown`.
  begin(everything) {
    const ratio = devicePixelRatio;
    const [width, height] = this.size;
    if (this.element.width !== Math.round(width * ratio) || this.element.height !== Math.round(height * ratio)) {
      this.element.width = Math.round(width * ratio);
      this.element.height = Math.round(height * ratio);
      everything = true;
    }
    this.pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (everything) {
      this.pen.clearRect(0, 0, width, height);
      this.shown = [];
    }
    this.pen.globalAlpha = 1;
    return Object.assign(this, { width, height, colour, rem: Number(colour('rem')) });
  }
}

const discs = new Map();             // the pictures of dots: to copy one is faster than to draw it

function disc(name, size) {
  const key = `${colour(name)} ${size} ${devicePixelRatio}`;
  if (!discs.has(key)) {
    if (discs.size > 50) discs.clear();
    const canvas = document.createElement('canvas'), pen = canvas.getContext('2d');
    const side = canvas.width = canvas.height = Math.ceil(size * devicePixelRatio);
    pen.fillStyle = pen.strokeStyle = colour(name);
    pen.beginPath();
    // A silent client is a ring, for those who do not tell red from green.
    if (name === '--lost') {
      pen.lineWidth = side * .2;
      pen.arc(side / 2, side / 2, side * .27, 0, 7);
      pen.stroke();
    } else {
      pen.arc(side / 2, side / 2, side * .37, 0, 7);
      pen.fill();
    }
    discs.set(key, canvas);
  }
  return discs.get(key);
}

const sizes = new Map();             // of the canvases, in CSS pixels
const colours = new Map();          // what `colour` has returned in the current theme and size

// Returns the value of a custom property: a colour or a font. A canvas cannot resolve light-dark(),
// so a probe element does.
function colour(name) {
  if (!colours.has(name)) {
    const root = getComputedStyle(document.documentElement), probe = document.getElementById('probe');
    probe.style.color = `var(${name})`;
    const fonts = { '--mono-font': '--mono', '--sans-font': '--sans' };
    colours.set(name, name === 'rem' ? parseFloat(root.fontSize)
      : fonts[name] ? root.getPropertyValue(fonts[name]) : getComputedStyle(probe).color);
  }
  return colours.get(name);
}

// Returns the largest size of cells of which `count` fit into a rectangle, and their number in a row.
function grid(count, width, height, most) {
  for (let size = Math.floor(most); size > 2; size -= .5) {
    const across = Math.floor(width / size);
    if (across * Math.floor(height / size) >= count) return { size, across };
  }
  const size = Math.max(1, Math.sqrt(width * Math.max(1, height) / Math.max(1, count)) - .1);
  return { size, across: Math.max(1, Math.floor(width / size)) };
}

// Returns the parts of the lane in which the event loop was blocked for at least 100 ms.
function blocks(lane) {
  const found = [];
  let run;
  for (const [at, state, part] of lane) {
    const blocked = state === 'disk' ? 'disk' : part > .7 ? 'cpu' : undefined;
    if (blocked && run && at - run[1] < 4 * STEP_MS) run[1] = at;
    else if (blocked) found.push(run = [at, at, blocked]);
    if (run && blocked === 'disk') run[2] = 'disk';
  }
  return found.filter(([from, to]) => to - from >= 100);
}

function outline(pen, colour, [x, y, wide, high]) {
  pen.strokeStyle = colour;
  pen.lineWidth = 2;
  pen.strokeRect(x - .5, y - .5, wide, high);
}

function legend(id, prefix, entries) {
  const list = document.getElementById(id), numbers = {};
  for (const [name, colour] of entries) {
    const entry = document.createElement('li');
    const sign = document.createElement('i');
    sign.className = `sign ${colour.slice(2)}`;
    const text = document.createElement('span');
    const value = document.createElement('b');
    value.dataset.of = name;
    entry.append(sign, value, setText(text, `${prefix}.${name}`));
    list.append(entry);
    numbers[name] = value;
  }
  return numbers;
}

function write(element, value) {
  if (element.dataset.value === String(value)) return;
  element.dataset.value = value;
  element.textContent = number(value);
}

