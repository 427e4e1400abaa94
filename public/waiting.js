// The list of threads: who they are, and what each waits for, in the kernel's word and in ours.

import { number, say, said } from './words.js';

// What the kernel's functions wait for; the first that fits. Their names differ a little from one Linux to another.
const WAITS = [
  [/futex/, 'bell'],
  [/accept/, 'accept'],
  [/epoll|ep_poll/, 'hang-up'],
  [/poll|stream_wait_memory/, 'room'],
  [/wait_woken|sk_wait_data|inet_recvmsg|tcp_recvmsg/, 'request'],
  [/pipe/, 'pipe'],
  [/unix/, 'signal'],
  [/nanosleep/, 'time'],
  [/io_schedule|folio|bit_wait|blk|jbd2/, 'disk'],
];
const ROLES = /^(accept|deliverer|hang-ups|lab-clients|redis-reader|signals|sse|store|threadcast|ticker|watchdog)(-|$)/;

export function waiting() {
  const table = document.getElementById('waiting').tBodies[0];
  const seen = document.getElementById('threads-seen');
  const rows = new Map();           // by what stands in them: most stay as they are from second to second

  return ({ threads, waiting: groups }) => {
    const looked = groups.reduce((sum, group) => sum + group.threads, 0);
    seen.dataset.value = looked;
    say(seen, threads > looked + 10 ? 'threads.some' : 'threads.all', { threads, looked });
    // Own threads first, and of the many the largest group.
    const order = [...groups].sort((a, b) => (a.name.startsWith('sse') - b.name.startsWith('sse')) || b.threads - a.threads);
    const kept = new Map();
    const now = order.map(group => {
      const key = `${group.name} ${group.state} ${group.waits}`;
      const row = rows.get(key) ?? new Row(group);
      kept.set(key, row);
      row.show(group);
      return row.root;
    });
    rows.clear();
    kept.forEach((row, key) => rows.set(key, row));
    if (now.length !== table.children.length || now.some((row, index) => row !== table.children[index])) {
      table.replaceChildren(...now);
    }
  };
}

class Row {
  root = document.createElement('tr');
  #count = document.createElement('td');
  #named = document.createElement('small');

  constructor({ name, state, waits }) {
    const head = document.createElement('th');
    head.scope = 'row';
    const code = document.createElement('code');
    code.textContent = name;
    head.append(code, this.#named);
    this.#count.className = 'count';
    const role = document.createElement('td');
    const known = name.match(ROLES);
    if (known) role.append(said(`role.${known[1]}`));
    const what = document.createElement('td');
    what.append(said(`wait.${meaning(state, waits)}`));
    if (waits) {
      const raw = document.createElement('code');
      raw.textContent = waits;
      what.append(' ', raw);
    }
    this.root.dataset.state = state;
    this.root.append(head, this.#count, role, what);
  }

  show({ name, threads, named }) {
    if (this.#count.dataset.value === String(threads)) return;
    this.#count.dataset.value = threads;
    this.#count.textContent = number(threads);
    this.#named.textContent = name.endsWith('*') ? ` ${named.join(', ')}${threads > named.length ? ', …' : ''}` : '';
  }
}

function meaning(state, waits) {
  if (state === 'R') return 'running';
  if (state === 'D') return 'disk';
  return WAITS.find(([pattern]) => pattern.test(waits))?.[1] ?? 'unknown';
}
