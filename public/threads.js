// The list of threads: their names, what each does, and what it waits for.

import { meaning } from './waits.js';
import { number, setText, textSpan } from './words.js';

const ROLES = /^(accept|broadcaster|disconnects|lab-clients|lab-event-loop|lab-watch|log-writer|redis-reader|signals|sse|store-writer|threadcast|ticker|watchdog|webhooks)(-|$)/;

export function threadList() {
  const table = document.getElementById('thread-list').tBodies[0];
  const count = document.getElementById('thread-count');
  const rows = new Map();           // by group; kept, because most groups stay the same each second

  return ({ threads, thread_groups: groups }) => {
    const looked = groups.reduce((sum, group) => sum + group.threads, 0);
    count.dataset.value = looked;
    setText(count, threads > looked + 10 ? 'threads.some' : 'threads.all', { threads, looked });
    // The server's own threads come first, then the connections' threads; among each, the largest
    // groups come first.
    const order = [...groups].sort((a, b) => (a.name.startsWith('sse') - b.name.startsWith('sse')) || b.threads - a.threads);
    const kept = new Map();
    const now = order.map(group => {
      const key = `${group.name} ${group.state} ${group.waits_for}`;
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

  constructor({ name, state, waits_for: waitsFor }) {
    const head = document.createElement('th');
    head.scope = 'row';
    const code = document.createElement('code');
    code.textContent = name;
    head.append(code, this.#named);
    this.#count.className = 'count';
    const role = document.createElement('td');
    const known = name.match(ROLES);
    if (known) role.append(textSpan(`role.${known[1]}`));
    const what = document.createElement('td');
    what.append(textSpan(`wait.${meaning(state, waitsFor, name)}`));
    if (waitsFor) {
      const raw = document.createElement('code');
      raw.textContent = waitsFor;
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
