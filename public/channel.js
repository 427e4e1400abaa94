// Any channel: listened to by client.js, so that all tabs share one connection; published to by a form, and the
// same request as a line of curl.

import { StreamPanel } from './panel.js';
import { problemOf } from './raw.js';
import { Threadcast } from './client.js';
import { say } from './words.js';

export function channelPanel() {
  let client;
  const panel = new StreamPanel('channel', {
    route() {
      panel.types = ['gap', ...names('types')];
      return `/channels?${new URLSearchParams(names().map(name => ['channel', name]))}`;
    },
    source() {
      const since = panel.part('since').value;
      client = new Threadcast(names(), since ? { since } : {});
      client.addEventListener('lead', () => role());
      client.addEventListener('open', () => role());
      return client;
    },
    onclose() {
      client = undefined;
      role();
    },
  });

  const names = (field = 'name') => panel.part(field).value.split(/[\s,]+/).filter(Boolean);
  const role = () => {
    const lead = client?.readyState === 1 && (client.leading ? 'leads' : 'follows');
    say(panel.part('lead'), lead || 'lead-none');
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
    const listening = new URL(more.length ? '/channels' : `/channels/${encodeURIComponent(first ?? '')}`, location.origin);
    if (more.length) for (const name of names()) listening.searchParams.append('channel', name);
    if (panel.part('since').value) listening.searchParams.set('since', panel.part('since').value);
    panel.part('curl-listen').textContent = `curl -N ${quoted(listening.href)}`;
  };

  panel.root.addEventListener('input', showCurl);
  panel.on('form', 'submit', async event => {
    event.preventDefault();
    const { url, data } = request();
    try {
      const answer = await fetch(url, { method: 'POST', headers: { 'Content-Type': 'text/plain' }, body: data });
      const text = await answer.text();
      if (!answer.ok) throw new Error(problemOf(answer.status, text));
      say(panel.part('answer'));
      panel.part('answer').textContent = `${answer.status} ${text}`;
    } catch (error) {
      say(panel.part('answer'), 'not-sent', { why: error.message });
    }
  });
  showCurl();
  role();
}

// As a shell reads it: nothing in single quotes means anything but the quote.
const quoted = text => `'${text.replaceAll("'", "'\\''")}'`;
