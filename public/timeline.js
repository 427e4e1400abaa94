// The timeline of the last minute: a line for each open stream and a dot for each event. It draws the
// `mark` events of streams.js, and also lists them.

import { timelineEvents } from './streams.js';
import { append, clip } from './log.js';
import { clock, textSpan, t } from './words.js';

const SPAN = 60_000;                // milliseconds from the left edge to the right edge
const TOGETHER = 200;               // milliseconds; dots closer than this become one larger dot
const REDRAW_EVERY = 50;            // milliseconds, at least
const LANES = 5;                    // four streams and a WebSocket; style.css reserves the room
const MIDDLE = 11;                  // of a lane, in pixels
const SVG = 'http://www.w3.org/2000/svg';

const reducedMotion = matchMedia('(prefers-reduced-motion: reduce)');
const place = document.getElementById('lanes');
const list = document.getElementById('timeline-list');
const lanes = new Map();

let perMillisecond = 0;             // pixels; 0 means not yet measured
let timer;
let marked = false;                 // whether there is a new mark since the last redraw

export function timeline() {
  timelineEvents.addEventListener('mark', ({ detail }) => {
    if (!lanes.has(detail.lane)) addLane(detail);
    lanes.get(detail.lane).mark(detail);
    append(list, row(detail));
    // One redraw shows all marks of 50 ms: thousands of events a second may arrive.
    if (marked) return;
    marked = true;
    redrawAfter(REDRAW_EVERY);
  });
  new ResizeObserver(() => {
    perMillisecond = 0;
    move();
  }).observe(place);
  document.addEventListener('visibilitychange', move);
  const toggle = document.getElementById('timeline-toggle');
  toggle.addEventListener('click', () => {
    list.hidden = !list.hidden;
    toggle.setAttribute('aria-expanded', !list.hidden);
  });
}

// Adds a lane. If there is no room, it takes the place of one whose stream has ended.
function addLane(detail) {
  if (lanes.size >= LANES) remove([...lanes.keys()].find(name => lanes.get(name).hasEnded));
  lanes.set(detail.lane, new Lane(detail));
}

function remove(name) {
  lanes.get(name)?.root.remove();
  lanes.delete(name);
}

// Redraws the timeline, and again when it has moved by a pixel, or after 1 s if the user prefers
// reduced motion.
function move() {
  clearTimeout(timer);
  marked = false;
  if (document.hidden || lanes.size === 0) return;
  const now = performance.now();
  const [first] = lanes.values();
  if (!perMillisecond) perMillisecond = first.svg.clientWidth / SPAN;
  for (const [name, lane] of lanes) if (!lane.move(now)) remove(name);
  redrawAfter(reducedMotion.matches ? 1000 : Math.max(REDRAW_EVERY, 1 / (perMillisecond || 1)));
}

function redrawAfter(milliseconds) {
  clearTimeout(timer);
  timer = setTimeout(move, milliseconds);
}

class Lane {
  #moving = element('g');
  #line = null;                     // the line that is growing
  #dot = null;                      // the last dot
  #pieces = [];                     // each { node, from, to }, in milliseconds; dots have from = to
  #scale = 0;

  constructor({ dye }) {
    this.root = document.createElement('div');
    this.root.className = 'lane';
    this.root.dataset.dye = dye ?? 'slate';
    this.label = document.createElement('span');
    this.svg = element('svg');
    this.svg.setAttribute('aria-hidden', 'true');
    this.svg.append(this.#moving);
    this.root.append(this.label, this.svg);
    place.append(this.root);
  }

  get hasEnded() { return this.#line === null; }

  mark({ kind, name, event }) {
    const now = performance.now();
    if (name) this.label.textContent = this.label.title = name;
    if (kind === 'open') this.#startLine('open', now);
    else if (kind === 'lost') this.#startLine('lost', now);
    else if (kind === 'closed') this.#endLine(now);
    else if (!this.#line) this.#startLine('open', now);      // the stream was open before this mark
    if (kind === 'open' || kind === 'lost') return;
    const last = this.#dot;
    if (last?.kind === kind && now - last.from < TOGETHER) {
      last.count += 1;
      last.node.setAttribute('r', Math.min(7, 4 + last.count / 4));
      return;
    }
    this.#dot = { node: shape(kind), kind, from: now, to: now, count: 1 };
    const title = element('title');
    title.textContent = [clock(), t(`mark.${kind}`), event?.type, clip(String(event?.data ?? '')).slice(0, 80)]
      .filter(Boolean).join(' · ');
    this.#dot.node.append(title);
    this.#add(this.#dot);
  }

  // Moves the lines and dots to their places at `now`; returns whether any is still visible.
  move(now) {
    if (this.#line) this.#line.to = now;
    while (this.#pieces.length > 0 && this.#pieces[0].to < now - SPAN) this.#pieces.shift().node.remove();
    if (this.#line && !this.#pieces.includes(this.#line)) this.#pieces.unshift(this.#line);
    if (this.#scale !== perMillisecond) {
      this.#scale = perMillisecond;
      this.#pieces.forEach(piece => this.#draw(piece));
    } else if (this.#line) {
      this.#draw(this.#line);
    }
    const width = SPAN * perMillisecond;
    this.#moving.setAttribute('transform', `translate(${(width - 8 - now * perMillisecond).toFixed(1)} 0)`);
    return this.#pieces.length > 0;
  }

  #startLine(kind, now) {
    this.#endLine(now);
    const node = element('line');
    node.setAttribute('class', kind);
    this.#line = { node, from: now, to: now };
    this.#add(this.#line);
  }

  #endLine(now) {
    if (!this.#line) return;
    this.#line.to = now;
    this.#draw(this.#line);
    this.#line = null;
  }

  #add(piece) {
    this.#pieces.push(piece);
    if (piece.node.tagName === 'line') this.#moving.prepend(piece.node);
    else this.#moving.append(piece.node);
    this.#draw(piece);
  }

  #draw({ node, from, to }) {
    if (node.tagName === 'line') {
      node.setAttribute('x1', from * perMillisecond);
      node.setAttribute('x2', to * perMillisecond);
      node.setAttribute('y1', MIDDLE);
      node.setAttribute('y2', MIDDLE);
    } else if (node.tagName === 'circle') {
      node.setAttribute('cx', from * perMillisecond);
      node.setAttribute('cy', MIDDLE);
    } else {
      node.setAttribute('transform', `translate(${from * perMillisecond} ${MIDDLE})`);
    }
  }
}

// A dot for an event (a ring if replayed), a cross for a gap, a bar for the end of a stream, a
// triangle for a message sent.
function shape(kind) {
  const shapes = { gap: 'M-6-6L6 6M-6 6L6-6', closed: 'M0-7V7', sent: 'M-4 4L0-5L4 4Z' };
  const node = element(shapes[kind] ? 'path' : 'circle');
  if (shapes[kind]) node.setAttribute('d', shapes[kind]);
  else node.setAttribute('r', 4);
  node.setAttribute('class', kind);
  return node;
}

function element(name) { return document.createElementNS(SVG, name); }

function row({ name, kind, event }) {
  const at = new Date();
  const data = event?.data === undefined ? '' : ` ${event.type}: ${clip(String(event.data)).slice(0, 120)}`;
  return () => {
    const li = document.createElement('li');
    li.dataset.kind = kind;
    const time = document.createElement('span');
    time.textContent = clock(at);
    li.append(time, ` ${name} `, textSpan(`mark.${kind}`), data);
    return li;
  };
}
