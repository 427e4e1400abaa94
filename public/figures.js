// The three large figures under each side, and the figures of the charts. Rates are computed from
// two statuses of the server.

import { put } from './replay.js';
import { number, setText } from './words.js';

// The shortest time between two statuses from which rates are computed, in milliseconds.
const SHORTEST = 500;
// With fewer events than FEW or more new connections than MANY_NEW between two statuses, nearly all
// CPU time is spent on other work, so the page shows no CPU time per event.
const FEW = 20;
const MANY_NEW = 10;
// With fewer clients, the memory of the process is mostly that of other things.
const FEWEST_CLIENTS = 100;

const FIGURES = ['silence', 'micros', 'memory'];

export function figures() {
  const shown = { threads: panel('threads'), loop: panel('loop') };
  let before, rates = {}, last = {};

  const write = (side, name, value) => {
    const text = value == null ? '–' : number(value < 100 ? Math.round(value * 10) / 10 : Math.round(value));
    shown[side] = { ...shown[side], [name]: { text, value } };
    // While the picture is paused, these are the figures of the paused frame.
    if (!('replay' in document.documentElement.dataset)) put(side, name, text, value);
  };

  return {
    restart() { before = undefined; },

    // Returns what is shown now, by side and name, for the recording.
    shown: () => ({ ...shown }),

    // Returns the figures of the last status, for the tour.
    facts() { return last; },

    silences(model) {
      for (const side of ['threads', 'loop']) {
        const longest = model.longest(side);
        write(side, 'silence', longest == null ? null : Math.round(longest));
      }
    },

    // Shows a status, and returns the figures of the charts.
    sample(now) {
      const since = before && now.uptime_ms - before.uptime_ms;
      if (since < 0) before = undefined;                   // the server has been restarted
      if (!before || since >= SHORTEST) {
        rates = before ? ratesOf(before, now, since / 1000) : {};
        before = now;
      }
      const { lab } = now;
      const each = perClient(now.memory_bytes, lab, lab?.kernel_stack_bytes);
      const eachLoop = perClient(lab?.loop?.memory_bytes, lab?.loop, 0);
      write('threads', 'micros', rates.micros);
      write('loop', 'micros', rates.loop);
      write('threads', 'memory', each);
      write('loop', 'memory', eachLoop);
      last = {
        threads: now.threads, each, eachLoop, busy: rates.own == null ? null : rates.own * 100,
        micros: rates.micros, microsLoop: rates.loop, switches: rates.voluntary == null ? null : rates.voluntary + rates.involuntary,
      };
      return {
        clients: now.clients, threads: now.threads, memory: now.memory_bytes, kernel: now.kernel_memory_bytes,
        stacks: now.kernel_stack_bytes, ...rates,
      };
    },
  };
}

// Returns the memory that each client takes, in kilobytes. A process keeps most of the memory of clients
// that have gone, so the growth is that of the most clients that it has had.
function perClient(memory, side, stack) {
  const { base_bytes: base, clients, peak_clients: peak = clients } = side ?? {};
  if (!(clients >= FEWEST_CLIENTS && base > 0)) return null;
  return (Math.max(0, memory - base) / Math.max(clients, peak) + stack) / 1000;
}

function ratesOf(a, b, seconds) {
  const out = b.events_out - a.events_out;
  // The sum lacks the switches of threads that have ended. If many threads end in a second, that
  // second has no figure.
  const ended = a.threads - b.threads;
  const counted = a.context_switches && b.context_switches && ended <= Math.max(5, a.threads / 50);
  const switches = kind => counted ? Math.max(0, b.context_switches[kind] - a.context_switches[kind]) / seconds : null;
  const view = status => status.status_cpu_ms + (status.lab?.watch_cpu_ms ?? 0);
  const computed = b.cpu_ms - a.cpu_ms - (view(b) - view(a));
  const quiet = b.accepts - a.accepts <= MANY_NEW;
  const [loopA, loopB] = [a.lab?.loop, b.lab?.loop];
  const loopOut = loopA?.process === loopB?.process ? loopB?.events - loopA?.events : NaN;
  return {
    voluntary: switches('voluntary'), involuntary: switches('involuntary'),
    out: out / seconds, in: (b.events_in - a.events_in) / seconds,
    micros: out >= FEW && quiet ? Math.max(0, computed) * 1000 / out : null,
    loop: loopOut >= FEW && quiet ? (loopB.cpu_ms - loopA.cpu_ms) * 1000 / loopOut : null,
    busy: (b.cpu_ms - a.cpu_ms) / seconds / 1000,
    own: Math.max(0, computed) / seconds / 1000,           // without this view
  };
}

function panel(side) {
  const list = document.getElementById(`${side}-figures`), all = {};
  for (const name of FIGURES) {
    const box = document.createElement('div');
    const term = document.createElement('dt'), value = document.createElement('dd');
    const output = document.createElement('output');
    output.dataset.figure = name;
    output.textContent = '–';
    setText(term, `figure.${name}`);
    value.append(output);
    box.append(term, value);
    list.append(box);
    all[name] = { text: output.textContent, value: null };
  }
  return all;
}
