// The timeline: a thread for each open stream, a knot for each event, the last minute of it. What has happened is
// told to it by streams.js; it knows no stream itself. Beside the picture stands the same as a list.

import { happenings } from './streams.js';
import { append, clip } from './log.js';
import { clock, said, t } from './words.js';

const SPAN = 60_000;                // milliseconds from one edge to the other
const TOGETHER = 200;               // knots closer than this are one, and thicker
const SVG = 'http://www.w3.org/2000/svg';

const still = matchMedia('(prefers-reduced-motion: reduce)');
const loom = document.getElementById('loom');
const place = document.getElementById('lanes');
const list = document.getElementById('loom-list');
const lanes = new Map();

let perMillisecond = 0;             // pixels; 0 until it has been measured
let timer;

export function timeline() {
  happenings.addEventListener('mark', ({ detail }) => {
    if (!lanes.has(detail.lane)) lanes.set(detail.lane, new Lane(detail));
    lanes.get(detail.lane).mark(detail);
    append(list, row(detail));
    loom.dataset.empty = 'no';
    move();
  });
  new ResizeObserver(() => {
    perMillisecond = 0;
    move();
  }).observe(place);
  document.addEventListener('visibilitychange', move);
  const toggle = document.getElementById('loom-toggle');
  toggle.addEventListener('click', () => {
    list.hidden = !list.hidden;
    toggle.setAttribute('aria-expanded', !list.hidden);
  });
}

// Only as often as anything moves by a pixel, and once a second for who does not want it to move.
function move() {
  clearTimeout(timer);
  if (document.hidden || lanes.size === 0) return;
  const now = performance.now();
  const [first] = lanes.values();
  if (!perMillisecond) perMillisecond = first.svg.clientWidth / SPAN;
  for (const [name, lane] of lanes) {
    if (!lane.move(now)) {
      lane.root.remove();
      lanes.delete(name);
    }
  }
  if (lanes.size === 0) loom.dataset.empty = '';
  timer = setTimeout(move, still.matches ? 1000 : Math.max(50, 1 / (perMillisecond || 1)));
}

class Lane {
  #moving = element('g');
  #thread = null;                   // the piece that is being spun
  #knot = null;
  #pieces = [];                     // each { node, from, to }, times; knots have from = to
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

  mark({ kind, name, event }) {
    const now = performance.now();
    if (name) this.label.textContent = name;
    if (kind === 'open') this.#spin('open', now);
    else if (kind === 'lost') this.#spin('lost', now);
    else if (kind === 'closed') this.#cutOff(now);
    else if (!this.#thread) this.#spin('open', now);      // the page has joined a stream that was open already
    if (kind === 'open' || kind === 'lost') return;
    const last = this.#knot;
    if (last?.kind === kind && now - last.from < TOGETHER) {
      last.count += 1;
      last.node.setAttribute('r', Math.min(7, 4 + last.count / 4));
      return;
    }
    this.#knot = { node: knot(kind), kind, from: now, to: now, count: 1 };
    const title = element('title');
    title.textContent = [clock(), t(`mark.${kind}`), event?.type, clip(String(event?.data ?? '')).slice(0, 80)]
      .filter(Boolean).join(' · ');
    this.#knot.node.append(title);
    this.#add(this.#knot);
  }

  // Moves everything, and says whether there is still anything to see.
  move(now) {
    if (this.#thread) this.#thread.to = now;
    while (this.#pieces.length > 0 && this.#pieces[0].to < now - SPAN) this.#pieces.shift().node.remove();
    if (this.#thread && !this.#pieces.includes(this.#thread)) this.#pieces.unshift(this.#thread);
    if (this.#scale !== perMillisecond) {
      this.#scale = perMillisecond;
      this.#pieces.forEach(piece => this.#draw(piece));
    } else if (this.#thread) {
      this.#draw(this.#thread);
    }
    const width = SPAN * perMillisecond;
    this.#moving.setAttribute('transform', `translate(${(width - 8 - now * perMillisecond).toFixed(1)} 0)`);
    return this.#pieces.length > 0;
  }

  #spin(kind, now) {
    this.#cutOff(now);
    const node = element('line');
    node.setAttribute('class', kind);
    this.#thread = { node, from: now, to: now };
    this.#add(this.#thread);
  }

  #cutOff(now) {
    if (!this.#thread) return;
    this.#thread.to = now;
    this.#draw(this.#thread);
    this.#thread = null;
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
      node.setAttribute('y1', 12);
      node.setAttribute('y2', 12);
    } else if (node.tagName === 'circle') {
      node.setAttribute('cx', from * perMillisecond);
      node.setAttribute('cy', 12);
    } else {
      node.setAttribute('transform', `translate(${from * perMillisecond} 12)`);
    }
  }
}

// A knot, a ring for what came again, a cross for what is lost, an end.
function knot(kind) {
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
    li.append(time, ` ${name} `, said(`mark.${kind}`), data);
    return li;
  };
}
