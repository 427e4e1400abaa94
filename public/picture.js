// The picture: a cell for each thread of the server and, beside them, the one thread of the event
// loop with a dot for each of its clients. Both are drawn from the frames of /lab/watch, at most ten
// times a second.

import { meaning } from './waits.js';
import { languageChanges, number, setText, t, writeText } from './words.js';

// What a thread does, in the order of the legend, with the colour of its cells.
const STATES = [
  ['asleep', '--cell'], ['running', '--woad'], ['runnable', '--weld'], ['request', '--indigo'], ['room', '--plum'], ['disk', '--lost'],
];
// What a client of the event loop sees, by the time since its last event.
const DOTS = [['fresh', '--moss'], ['late', '--weld'], ['silent', '--lost'], ['stuck', '--plum']];

const LANE_REM = 2.5;               // from the upper edge of the event loop's lane to its clients
const LANES = 50;                   // with fewer connections, each thread has a lane, else a cell
const CHIPS_REM = 8;                // in a lower picture, the server's own threads are cells too
const MANY = 100;                   // with more threads, no lane is kept
const LANE_MS = 10_000;             // the time from a lane's left edge to its right edge
const STRIP_MS = 60_000;            // the same for the line of the longest silence
const STRIPS_MS = 950;              // between two drawings of these lines: a minute is some 600 pixels wide
const GLOW_MS = 900;                // how long a cell shows that its thread has run
const HELD_MS = 1_500;              // how long a label stays after its thread has left the disk
const STEP_MS = 20;                 // of the letters of silences, and of a turn of the event loop
const WINDOW_MS = 10_000;           // of the longest silence that is shown as a figure

const still = matchMedia('(prefers-reduced-motion: reduce)');

// Calls `each` with the letter of each run and its places, from the first one to before the second: 3ab
// is aaab. Returns the number of places.
function runs(text, each) {
  let at = 0, count = 0;
  for (let n = 0; n < text.length; n++) {
    const code = text.charCodeAt(n);
    if (code >= 48 && code <= 57) count = count * 10 + code - 48;
    else {
      const to = at + (count || 1);
      each(text[n], at, to);
      [at, count] = [to, 0];
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
    this.changedAt = -Infinity;       // when a connection's thread last ran, or its state or a client's changed
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
    const count = runs(frame.threads, (letter, from, to) => {
      const kind = kinds[(letter.charCodeAt(0) | 32) - 97] ?? unread, hasRun = letter < 'a' && letter !== '?';
      for (let index = from; index < to; index++) {
        if (letter === '.') delete this.cells[index];
        else this.#cell(index, kind, hasRun);
      }
    });
    this.cells.length = count;
    const lane = frame.lane ?? '';
    for (let n = 0; n < lane.length; n += 2) {
      this.lane.push([at - (lane.length - n) / 2 * STEP_MS, (kinds[lane.charCodeAt(n) - 97] ?? unread).what, Number(lane[n + 1]) / 9]);
    }
    if (frame.lane == null) this.lane = [];
    while (this.lane[0]?.[0] <= at - LANE_MS) this.lane.shift();
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
    const named = this.names[index], id = named?.[0], name = named?.[1];
    if (what === 'room' && name?.startsWith('accept')) what = 'accept';
    let cell = this.cells[index];
    if (!cell || (cell.id ?? id) !== id) cell = this.cells[index] = { since: at, ran: -Infinity, disk: -Infinity, lane: [] };
    cell.id = id;
    if ((hasRun || cell.what !== what) && isConnection(name)) this.changedAt = at;
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
    this.dots.length = runs(text, (letter, from, to) => {
      const late = (letter.charCodeAt(0) - 97) * STEP_MS - period;
      const dot = letter === '.' ? null : letter === '-' ? 'stuck' : late > 80 ? 'silent' : late > 30 ? 'late' : 'fresh';
      for (let index = from; index < to; index++) {
        if (dot === 'silent') this.reddened[index] = this.alarm = this.at;
        if (dot !== this.dots[index]) this.changedAt = this.at;
        this.dots[index] = dot;
      }
    });
  }

  // Whether a thread waits for the disk, or a client is silent, or did so a moment ago.
  get isAlarmed() { return this.at - this.alarm < HELD_MS; }

  // The longest silence of a client within the window, in milliseconds.
  longest(side) {
    const line = this.silences[side];
    if (line.at(-1)?.[1] == null) return null;
    let longest = 0;
    for (let n = line.length - 1; n >= 0 && line[n][0] > this.at - WINDOW_MS; n--) longest = Math.max(longest, line[n][1] ?? 0);
    return longest;
  }
}

// A thread whose name is not known yet is probably a new connection's.
const isConnection = name => !name || name.startsWith('sse-');

// Most waits look alike: the thread is asleep.
const COLOURS = Object.fromEntries([...STATES, ...DOTS]);
const shownAs = what => what in COLOURS ? what : 'asleep';

// How cells look: colours, each with its opacity. A thread that has run glows for a while.
const LOOKS = Object.fromEntries(STATES.map(([state, fill]) => [state, [[fill, 1]]]));
const GLOWS = [.2, .4, .6, .8].map(alpha => [...LOOKS.asleep, ['--woad', alpha]]);

export class Picture {
  // What changes with each frame has a small canvas of its own, because a browser copies a whole
  // canvas for each change.
  #chips = new Canvas('threads-chips');
  #threads = new Canvas('threads-canvas');
  #lane = new Canvas('loop-lane');
  #loop = new Canvas('loop-canvas');
  #strips = { threads: new Canvas('threads-strip'), loop: new Canvas('loop-strip') };
  #legends = { threads: legend('threads-legend', 'state', STATES), loop: legend('loop-legend', 'dot', DOTS) };
  // What is at a place of a canvas, and the order in which the arrow keys choose.
  #hit = { threads: () => undefined, loop: () => undefined };
  #order = { threads: () => [], loop: () => [] };
  #chosen = {};
  #drawn = 0;
  #stripsDrawn = 0;                 // when the lines of the silences were drawn last
  #frames = 0;                      // since the last drawing
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

  // Draws what has changed, unless the picture was drawn a moment ago; with `now`, in any case; and with
  // `everything`, all of it.
  draw(everything = false, now = everything) {
    const at = performance.now();
    this.#frames += 1;
    if (!now && !this.#isDue(at)) return;
    [this.#drawn, this.#frames] = [at, 0];
    this.#drawThreads(everything);
    this.#drawLoop(everything);
    if (everything || at - this.#stripsDrawn > (this.model.isAlarmed ? STRIPS_MS / 2 : STRIPS_MS)) this.#drawStrips(at);
    this.#count();
    if (everything || at - this.#told > 950) {
      this.#told = at;
      this.#tell();
    }
  }

  // Each drawing costs the browser about as much, however little has changed. So every frame is drawn only
  // while a thread waits for the disk or a client is silent, and every second one while connections'
  // threads run. With reduced motion, the picture changes once a second.
  #isDue(now) {
    const { at, changedAt, isAlarmed } = this.model;
    const every = isAlarmed ? 1 : at - changedAt < GLOW_MS ? 2 : 4;
    return still.matches ? now - this.#drawn >= 950 : this.#frames >= every;
  }

  #drawStrips(at) {
    this.#stripsDrawn = at;
    const top = Math.max(100, ...['threads', 'loop'].flatMap(side => this.model.silences[side].map(([, silent]) => silent ?? 0)));
    for (const side of ['threads', 'loop']) this.#drawStrip(side, top);
  }

  #drawThreads(everything) {
    const { cells, names, at } = this.model;
    const own = [], connections = [], blocked = [];
    const hasChips = this.#threads.fits(CHIPS_REM);
    cells.forEach((cell, index) => {
      if (hasChips && !isConnection(names[index]?.[1])) own.push(index);
      else {
        if (at - cell.disk < HELD_MS) blocked.push(connections.length);
        connections.push(index);
      }
    });
    const chips = this.#drawChips(own), { top } = this.#chips;
    // Usually a few cells have changed, and only these are drawn.
    const layout = `${top} ${connections.length}`, chosen = this.#chosen.threads;
    const isPlain = blocked.length === 0 && chosen === undefined && connections.length >= LANES;
    this.#threads.begin(everything || !isPlain || !this.#threads.isPlain || this.#threads.layout !== layout);
    Object.assign(this.#threads, { layout, isPlain, top });
    const rows = connections.length < LANES ? this.#drawLanes(connections, top) : this.#drawCells(connections, top);
    this.#label(blocked.slice(-3).map(n => [...rows.box(n), 'picture.disk']));
    const chip = chips.find(box => box[4] === chosen), place = connections.indexOf(chosen);
    if (chip) outline(this.#chips.pen, '--ink', chip);
    else if (place >= 0) outline(this.#threads.pen, '--ink', rows.box(place));
    this.#hit.threads = (left, up) => chips.find(box => contains(box, left, up))?.[4] ?? connections[rows.at(left, up)];
    this.#order.threads = () => [...own, ...connections];
  }

  // Draws the server's own threads as chips with their names, and returns their boxes. The cells begin
  // at `top`, below them.
  #drawChips(own) {
    const { cells, names } = this.model;
    const boxes = this.#placeChips(own);
    const { pen, rem } = this.#chips.begin(true);
    pen.font = chipFont();
    pen.textBaseline = 'middle';
    for (const [x, y, wide, high, index] of boxes) {
      pen.beginPath();
      pen.roundRect(x, y, wide, high, .2 * rem);
      let alphas = 0;
      for (const [fill, alpha] of this.#look(cells[index])) {
        pen.globalAlpha = alpha;
        pen.fillStyle = colour(fill);
        pen.fill();
        alphas = fill === '--cell' ? 0 : alpha;
      }
      pen.globalAlpha = 1;
      pen.fillStyle = colour(alphas > .5 ? '--cloth' : '--ink');
      pen.fillText(names[index][1], x + .4 * rem, y + high / 2 + 1);
    }
    return boxes;
  }

  // Places a chip for each of these threads, in rows, and makes their canvas as high as the rows.
  #placeChips(own) {
    const { pen, size: [width] } = this.#chips, rem = Number(colour('rem'));
    pen.font = chipFont();
    const high = 1.35 * rem, gap = .3 * rem;
    let x = 0, y = 0;
    const boxes = own.map(index => {
      const wide = pen.measureText(this.model.names[index][1]).width + .8 * rem;
      if (x + wide > width) [x, y] = [0, y + high + gap];
      const box = [x, y, wide, high, index];
      x += wide + gap;
      return box;
    });
    this.#chips.top = own.length ? Math.ceil(y + high + .6 * rem) : 0;
    this.#chips.resize(this.#chips.top);
    return boxes;
  }

  // Returns one of LOOKS or GLOWS.
  #look(cell) {
    const { at } = this.model, shown = shownAs(cell.what), since = at - cell.ran;
    if (at - cell.disk < HELD_MS / 2) return LOOKS.disk;
    if (shown !== 'asleep' || since >= GLOW_MS) return LOOKS[shown];
    return GLOWS[still.matches ? 2 : Math.ceil(GLOWS.length * (1 - since / GLOW_MS)) - 1];
  }

  // Draws the cells that have changed, and returns where all are.
  #drawCells(connections, top) {
    const { pen, width, height, rem, shown } = this.#threads;
    const { size, across } = grid(connections.length, width, height - top, rem);
    const gap = size > 8 ? 2 : size > 4 ? 1 : .5;
    const rows = new Rows(top, size, size, across);
    // Cells of one look are drawn together, because each change of the colour costs time.
    const changed = new Map();
    for (let n = 0; n < connections.length; n++) {
      const look = this.#look(this.model.cells[connections[n]]);
      if (shown[n] === look) continue;
      shown[n] = look;
      if (!changed.has(look)) changed.set(look, []);
      changed.get(look).push(rows.box(n));
    }
    for (const [look, boxes] of changed) {
      for (const [fill, alpha] of look) {
        pen.globalAlpha = alpha;
        pen.fillStyle = colour(fill);
        for (const [x, y] of boxes) pen.fillRect(x, y, size - gap, size - gap);
      }
    }
    pen.globalAlpha = 1;
    return rows;
  }

  #drawLanes(connections, top) {
    const { pen, width, height, rem } = this.#threads;
    const high = Math.min(1.3 * rem, (height - top) / Math.max(1, connections.length));
    const start = high > .9 * rem ? 6 * rem : 0;
    connections.forEach((index, n) => {
      const { lane } = this.model.cells[index];
      const y = top + n * high;
      const x = at => start + (1 - (this.model.at - at) / LANE_MS) * (width - start);
      for (const [at, state, ran] of lane) {
        pen.fillStyle = colour(ran && state === 'asleep' ? '--woad' : COLOURS[state]);
        pen.fillRect(x(at - 100), y + 1, Math.ceil(x(at) - x(at - 100)), high - 2);
      }
      if (start) {
        pen.font = chipFont();
        pen.textBaseline = 'middle';
        pen.fillStyle = colour('--soft');
        pen.fillText(this.model.names[index]?.[1] ?? '', 0, y + high / 2);
      }
    });
    return new Rows(top, width, high, 1);
  }

  #drawLoop(everything) {
    const { dots, lane, at } = this.model;
    const isPlain = this.#chosen.loop === undefined, isOff = dots.length === 0 && lane.length === 0;
    const layout = `${dots.length} ${isOff}`;
    const { pen, width, height, rem, shown } = this.#loop.begin(everything || !isPlain || !this.#loop.isPlain || this.#loop.layout !== layout);
    Object.assign(this.#loop, { layout, isPlain });
    this.#drawLane();
    const top = LANE_REM * rem;
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
    const rows = new Rows(top, size, size, across);
    for (let n = 0; n < dots.length; n++) {
      const dot = dots[n], red = dot && dot !== 'stuck' && at - this.model.reddened[n] < GLOW_MS / 2;
      const look = red ? '--lost' : COLOURS[dot];
      if (shown[n] === look) continue;
      shown[n] = look;
      const [left, up] = rows.box(n);
      pen.clearRect(left, up, size, size);
      if (look) pen.drawImage(disc(look, size), left, up, size, size);
    }
    const chosen = this.#chosen.loop;
    if (chosen < dots.length) outline(pen, '--ink', rows.box(chosen));
    this.#hit.loop = (left, up) => {
      const n = rows.at(left, up);
      return n < dots.length ? n : undefined;
    };
    this.#order.loop = () => [...dots.keys()];
  }

  // Draws what the event loop's thread did, and names the last thing that blocked it.
  #drawLane() {
    const { lane, at } = this.model;
    const { pen, width, height } = this.#lane.begin(true);
    pen.fillStyle = colour('--cell');
    pen.fillRect(0, 0, width, height);
    const x = when => (1 - (at - when) / LANE_MS) * width;
    const wide = Math.ceil(STEP_MS / LANE_MS * width) + .5;
    // One path for all turns, because each call that draws costs time.
    pen.beginPath();
    for (const [when, , part] of lane) if (part > 0) pen.rect(x(when), height * (1 - part), wide, height * part);
    pen.fillStyle = colour('--woad');
    pen.fill();
    pen.fillStyle = colour('--lost');
    const blocked = blocks(lane);
    for (const [from, to] of blocked) pen.fillRect(x(from), 0, x(to) - x(from) + wide, height);
    const last = blocked.at(-1);
    if (last && last[1] > at - HELD_MS) this.#label([[x(last[0]), 0, 0, height, `picture.blocked.${last[2]}`]]);
  }

  // Writes what happens beside a red cell, or over a red part of the event loop's lane. The last element
  // of each box is the key of the text.
  #label(boxes) {
    for (const [x, y, wide, high, key] of boxes) {
      const isCell = key === 'picture.disk', canvas = isCell ? this.#threads : this.#lane;
      const { pen, width, rem } = canvas, text = t(key);
      pen.font = `600 ${.85 * rem}px ${colour('--sans-font')}`;
      pen.textBaseline = 'middle';
      const long = pen.measureText(text).width + .8 * rem;
      const left = Math.max(0, Math.min(isCell ? x + wide / 2 - long / 2 : x - long - .3 * rem, width - long));
      // Above the first cells are the chips, so the label is below them.
      const up = !isCell ? .25 * rem : y - 1.7 * rem < canvas.top ? y + high + .4 * rem : y - 1.7 * rem;
      if (isCell) outline(pen, '--lost', [x - 2, y - 2, wide + 2, high + 2]);
      pen.fillStyle = colour('--lost');
      pen.beginPath();
      pen.roundRect(left, up, long, 1.4 * rem, .2 * rem);
      pen.fill();
      pen.fillStyle = colour('--cloth');
      pen.fillText(text, left + .4 * rem, up + .72 * rem);
    }
  }

  #drawStrip(side, top) {
    const { pen, width, height, rem } = this.#strips[side].begin(true);
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
      const order = this.#order[side]();
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

  // Makes the element this high, in whole CSS pixels.
  resize(height) {
    if (this.size[1] === height) return;
    this.element.style.height = `${height}px`;
    sizes.delete(this);
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
    return Object.assign(this, { width, height, rem: Number(colour('rem')) });
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

function chipFont() { return `${.72 * Number(colour('rem'))}px ${colour('--mono-font')}`; }

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

// Boxes of one size in rows, `across` in each, below `top`.
class Rows {
  constructor(top, wide, high, across) { Object.assign(this, { top, wide, high, across }); }

  // Returns the left and upper edge, the width and the height of a box.
  box(n) { return [n % this.across * this.wide, this.top + Math.floor(n / this.across) * this.high, this.wide, this.high]; }

  // Returns which box is at a place. There may be fewer boxes.
  at(left, up) {
    const column = Math.floor(left / this.wide), row = Math.floor((up - this.top) / this.high);
    return column >= 0 && column < this.across && row >= 0 ? row * this.across + column : undefined;
  }
}

const contains = ([x, y, wide, high], left, up) => left >= x && left < x + wide && up >= y && up < y + high;

function outline(pen, name, [x, y, wide, high]) {
  pen.strokeStyle = colour(name);
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
  writeText(element, number(value));
}

