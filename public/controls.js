// The live view's controls, which act on the server. The page loads this file only if the server
// runs with --lab.

import { act } from './lab.js';
import { number, setText } from './words.js';

const SLOW_REQUESTS = 5;

export function controls() {
  document.getElementById('controls-place').replaceWith(document.getElementById('controls').content);
  const part = id => document.getElementById(id);
  // Shows an error beside the control that caused it.
  const guarded = (output, action) => async (...args) => {
    try {
      await action(...args);
    } catch (error) {
      setText(part(output), 'failed', { why: error.message });
    }
  };

  const slider = part('clients'), field = part('clients-number'), rate = part('rate');
  const open = guarded('clients-result', async count => {
    const { asked, opening, most } = await act('clients', { count, rate: rate.value });
    setText(part('clients-result'), opening < asked ? 'clients.most' : '', { asked, most });
  });
  slider.addEventListener('input', () => { field.value = slider.value; });
  slider.addEventListener('change', () => open(slider.value));
  field.addEventListener('change', () => {
    if (!field.checkValidity() || field.value === '') return field.reportValidity();
    slider.value = field.value;
    open(field.value);
  });
  rate.addEventListener('input', () => { part('rate-shown').textContent = number(Number(rate.value)); });
  rate.addEventListener('change', () => { if (Number(field.value) > 0) open(field.value); });

  const buttons = [...part('delivery').children];
  part('delivery').addEventListener('click', guarded('delivery-result', async ({ target }) => {
    if (!target.closest('button')) return;
    press((await act('delivery', { to: target.value })).delivery);
    setText(part('delivery-result'));
  }));
  const press = delivery => buttons.forEach(button => button.setAttribute('aria-pressed', button.value === delivery));

  part('stuck').addEventListener('click', guarded('stuck-result', () => act('stuck', {})));

  const slow = guarded('slow-result', async how => {
    for (let n = 1; n <= SLOW_REQUESTS; n++) {
      const response = await fetch(`/lab/slow/${how}`);
      if (!response.ok) throw new Error((await response.json()).detail);
      const { ms, computed_ms } = await response.json();
      setText(part('slow-result'), 'slow.done', { n, of: SLOW_REQUESTS, ms: Math.round(ms), computed: Math.round(computed_ms) });
    }
  });
  for (const button of document.querySelectorAll('button.slow')) {
    button.addEventListener('click', async () => {
      button.disabled = true;
      await slow(button.value);
      button.disabled = false;
      button.focus();
    });
  }

  let stuck = '0 0';
  return ({ delivery, lab }) => {
    press(delivery);
    const { clients = 0, lost = 0, refused: rejected = 0, late_ms: late, own_most: own, asked } = lab;
    const latency = part('clients-latency');
    latency.dataset.clients = clients;
    if (late?.half != null) {
      setText(latency, 'clients.latency', { clients, half: round(late.half), most: round(late.p99), lost });
    } else setText(latency, clients ? 'clients.open' : '', { clients });
    if (asked > own) setText(part('clients-result'), 'clients.own', { asked, most: own });
    else if (rejected > 0) setText(part('clients-result'), 'clients.rejected', { rejected });
    if (stuck !== `${lab.stuck} ${lab.given_up}`) {
      stuck = `${lab.stuck} ${lab.given_up}`;
      setText(part('stuck-result'), 'stuck.now', { stuck: lab.stuck, given: lab.given_up });
    }
  };
}

const round = milliseconds => Math.round(milliseconds * 10) / 10;
