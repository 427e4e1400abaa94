// The last two minutes of the picture: they can be paused, scrubbed, and played ten times slower. The
// page that save.js writes contains this file too.

import { duration, setText, writeText } from './words.js';

const KEPT = 1_200;                 // frames: two minutes
const FRAME_MS = 100;
const PER_SECOND = 1_000 / FRAME_MS;
const SLOWER = 10;
const WHOLE = 100;                  // how many frames before a frame are applied as a whole, to show it
const LINE = 600;                   // how many frames the line of the silences covers

// The frames that have arrived, each with what else the picture needs.
export class Recording {
  entries = [];
  acts = [];

  // Adds a frame. `figures` are those below the sides, by side and name.
  push(text, names, rate, figures) {
    const frame = JSON.parse(text);
    if (frame.at < this.entries.at(-1)?.at) this.entries.length = 0;       // the server has been restarted
    this.entries.push({ at: frame.at, text, names, rate, figures });
    if (this.entries.length > KEPT) this.entries.shift();
    return frame;
  }
}

// Shows a figure below a side.
export function put(side, name, text, value) {
  const output = document.querySelector(`#${side}-figures [data-figure=${name}]`);
  if (output.dataset.value !== String(value ?? '')) output.dataset.value = value ?? '';
  writeText(output, text);
}

// Connects the bar below the picture. `isLive` tells whether frames still arrive.
export function replay(recording, model, picture, isLive) {
  const part = name => document.getElementById(`replay-${name}`);
  const root = document.documentElement;
  let index = -1;                   // of the shown frame; -1 if the picture is live
  let plays = false, slow = false, waited = 0, shown = -1;
  let timer;                        // while it plays

  const { entries } = recording;
  function show(wanted) {
    index = Math.max(0, Math.min(wanted, entries.length - 1));
    if (entries.length === 0) return;
    if (index !== shown + 1) {
      model.clear();
      for (let n = Math.max(0, index - LINE); n < index; n++) apply(n, n < index - WHOLE);
    }
    apply(index, false);
    shown = index;
    const { figures } = entries[index];
    for (const [side, all] of Object.entries(figures)) {
      for (const [name, { text, value }] of Object.entries(all)) put(side, name, text, value);
    }
    picture.draw(true);
    write();
  }

  function apply(n, onlySilences) {
    const { text, names, rate } = entries[n];
    model.names = names;
    model.apply(JSON.parse(text), rate, recording.acts, onlySilences);
  }

  function write() {
    if (plays) timer ??= setInterval(play, FRAME_MS);
    else timer = clearInterval(timer);
    const scrub = part('scrub');
    scrub.max = Math.max(0, entries.length - 1);
    scrub.value = index < 0 ? scrub.max : index;
    const ago = index < 0 || entries.length === 0 ? 0 : entries.at(-1).at - entries[index].at;
    setText(part('time'), index < 0 ? 'replay.live' : 'replay.ago', { ago: duration(ago) });
    scrub.setAttribute('aria-valuetext', part('time').textContent);
    setText(part('play'), index < 0 || plays ? 'replay.pause' : 'replay.play');
    part('slow').setAttribute('aria-pressed', slow);
    part('live').disabled = index < 0;
    root.toggleAttribute('data-replay', index >= 0);
  }

  function pause(at) {
    plays = false;
    show(at);
  }

  part('play').addEventListener('click', () => {
    if (index < 0 || plays) return pause(index < 0 ? entries.length - 1 : index);
    plays = true;
    if (index >= entries.length - 1) show(0);
    write();
  });
  part('scrub').addEventListener('input', () => pause(Number(part('scrub').value)));
  part('slow').addEventListener('click', () => {
    slow = !slow;
    // Slower than the events themselves, the picture cannot be live.
    if (slow && index < 0) {
      show(entries.length - 1 - WHOLE / 2);
      plays = true;
    }
    write();
  });
  part('live').addEventListener('click', () => {
    if (index < 0) return;
    if (!isLive) return pause(entries.length - 1);
    show(entries.length - 1);         // the next frames continue from here
    [index, plays, slow, shown] = [-1, false, false, -1];
    write();
  });
  function play() {
    if (slow && ++waited % SLOWER) return;
    if (index < entries.length - 1) show(index + 1);
    else pause(index);
  }

  if (!isLive) pause(entries.length - 1);
  else write();
  return {
    get isLive() { return index < 0; },

    // Called when a frame has arrived, of which the oldest may have been dropped.
    arrived() {
      if (index >= 0 && entries.length === KEPT) {
        index = Math.max(0, index - 1);
        shown = -2;
      }
      // Each move of the bar costs a layout of the page, so it moves once a second, until two minutes
      // are recorded.
      const scrub = part('scrub'), last = entries.length - 1;
      if (entries.length % PER_SECOND || Number(scrub.max) === last) return;
      scrub.max = last;
      if (index < 0) scrub.value = last;
    },
  };
}
