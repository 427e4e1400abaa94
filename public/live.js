// The live view: shows the server's status, every second, as charts and as a list of threads.
// A figure passes from /status/stream through sample() to charts.js and threads.js.

import { charts } from './charts.js';
import { findLab, lab } from './lab.js';
import { settings } from './settings.js';
import { threadList } from './threads.js';
import { setText, setLanguage } from './words.js';

const root = document.documentElement;
await Promise.all([setLanguage(root.lang), findLab()]);

settings();
const draw = charts();
const list = threadList();
const controls = lab.on ? (await import('./controls.js')).controls() : () => {};

// The shortest time between two statuses from which rates are computed, in milliseconds.
const SHORTEST = 500;
// With fewer events than FEW or more new connections than MANY_NEW between two statuses, nearly all
// CPU time is spent on other work, so the page shows no CPU time per event.
const FEW = 20;
const MANY_NEW = 10;

const state = document.getElementById('state');
let before;
let rates = {};

const source = new EventSource('/status/stream');
source.onopen = () => show(1);
source.onerror = () => {
  before = undefined;
  show(source.readyState);
};
source.onmessage = ({ data }) => {
  const status = JSON.parse(data);
  draw(sample(status), status.delivery);
  list(status);
  controls(status);
  show(1, status);
};

function show(readyState, status) {
  state.dataset.state = readyState;
  if (status) setText(state, 'state', { clients: status.clients, most: status.max_clients, delivery: status.delivery });
  else setText(state, `state.${readyState}`);
}

function sample(now) {
  const since = before && now.uptime_ms - before.uptime_ms;
  if (since < 0) before = undefined;                   // the server has been restarted
  if (!before || since >= SHORTEST) {
    rates = before ? ratesOf(before, now, since / 1000) : {};
    before = now;
  }
  return {
    clients: now.clients, threads: now.threads, memory: now.memory_bytes, kernel: now.kernel_memory_bytes,
    stacks: now.kernel_stack_bytes, ...rates,
  };
}

function ratesOf(a, b, seconds) {
  const out = b.events_out - a.events_out;
  // The sum lacks the switches of threads that have ended. If many threads end in a second, that
  // second has no figure.
  const ended = a.threads - b.threads;
  const counted = a.context_switches && b.context_switches && ended <= Math.max(5, a.threads / 50);
  const switches = kind => counted ? Math.max(0, b.context_switches[kind] - a.context_switches[kind]) / seconds : null;
  const computed = b.cpu_ms - a.cpu_ms - (b.status_cpu_ms - a.status_cpu_ms);
  return {
    voluntary: switches('voluntary'), involuntary: switches('involuntary'),
    out: out / seconds, in: (b.events_in - a.events_in) / seconds,
    micros: out >= FEW && b.accepts - a.accepts <= MANY_NEW ? Math.max(0, computed) * 1000 / out : null,
    busy: (b.cpu_ms - a.cpu_ms) / seconds / 1000,
  };
}

root.dataset.ready = '';
