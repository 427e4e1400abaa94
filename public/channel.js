// The panel for any channel. It subscribes with client.js, so that all tabs share one connection,
// and publishes with a form. It shows a curl command that subscribes and one that publishes.

import { StreamPanel } from './panel.js';
import { problemText } from './raw.js';
import { Threadcast } from './client.js';
import { setText } from './words.js';

export function channelPanel() {
  let client;
  const panel = new StreamPanel('channel', {
    route() {
      panel.types = types();
      const query = new URLSearchParams(names().map(name => ['channel', name]));
      if (panel.part('since').value) query.set('since', panel.part('since').value);
      return `/channels?${query}`;
    },
    source() {
      const since = panel.part('since').value;
      client = new Threadcast(names(), since ? { since } : {});
      client.addEventListener('lead', showRole);
      client.addEventListener('open', showRole);
      return client;
    },
    onclose() {
      client = undefined;
      showRole();
    },
  });

  const types = () => ['gap', ...names('types')];
  const names = (field = 'name') => panel.part(field).value.split(/[\s,]+/).filter(Boolean);
  const showRole = () => {
    const lead = client?.readyState === 1 && (client.leading ? 'leads' : 'follows');
    setText(panel.part('lead'), lead || 'lead-none');
    panel.part('lead').dataset.lead = lead || '';
  };
  const request = () => {
    const field = name => panel.part(name).value;
    const query = new URLSearchParams();
    for (const [key, name] of [['event', 'event'], ['id', 'id'], ['retry', 'retry']]) {
      if (field(name)) query.set(key, field(name));
    }
    const url = new URL(`/channels/${encodeURIComponent(field('target'))}`, location.origin);
    url.search = query;
    return { url: url.href, data: field('data') };
  };
  const showCurl = () => {
    const { url, data } = request();
    panel.part('curl').textContent = `curl -H 'Content-Type: text/plain' --data-binary ${quoted(data)} ${quoted(url)}`;
    const [first, ...more] = names();
    const subscription = new URL(more.length ? '/channels' : `/channels/${encodeURIComponent(first ?? '')}`, location.origin);
    if (more.length) for (const name of names()) subscription.searchParams.append('channel', name);
    if (panel.part('since').value) subscription.searchParams.set('since', panel.part('since').value);
    panel.part('curl-listen').textContent = `curl -N ${quoted(subscription.href)}`;
  };

  panel.root.addEventListener('input', showCurl);
  panel.on('types', 'change', () => panel.listen(types()));
  panel.on('form', 'submit', async event => {
    event.preventDefault();
    const { url, data } = request();
    try {
      const response = await fetch(url, { method: 'POST', headers: { 'Content-Type': 'text/plain' }, body: data });
      const text = await response.text();
      if (!response.ok) throw new Error(problemText(response.status, text));
      setText(panel.part('answer'));
      panel.part('answer').textContent = `${response.status} ${text}`;
      const name = panel.part('event').value;
      const isHeard = !name || ['message', ...panel.types].includes(name);
      panel.note(panel.connected && !isHeard ? ['no-listener', { name }] : null);
    } catch (error) {
      setText(panel.part('answer'), 'not-sent', { why: error.message });
    }
  });
  showCurl();
  showRole();
}

// Quotes a text for a shell: within single quotes, only the single quote needs an escape.
const quoted = text => `'${text.replaceAll("'", "'\\''")}'`;
