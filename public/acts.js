// What the live view lets its reader do to the server: only with --lab, or this file is not asked for.

import { act } from './lab.js';
import { number, say } from './words.js';

const SLOW_REQUESTS = 5;

export function controls() {
  document.getElementById('controls-place').replaceWith(document.getElementById('controls').content);
  const part = id => document.getElementById(id);
  // Whatever goes wrong is said where it was tried.
  const trying = (place, what) => async (...of) => {
    try {
      await what(...of);
    } catch (error) {
      say(part(place), 'failed', { why: error.message });
    }
  };

  const slider = part('clients'), field = part('clients-number'), rate = part('rate');
  const open = trying('clients-said', async count => {
    const { asked, opening, most } = await act('clients', { count, rate: rate.value });
    say(part('clients-said'), opening < asked ? 'clients.most' : '', { asked, most });
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
  part('delivery').addEventListener('click', trying('delivery-said', async ({ target }) => {
    if (!target.closest('button')) return;
    press((await act('delivery', { to: target.value })).delivery);
    say(part('delivery-said'));
  }));
  const press = delivery => buttons.forEach(button => button.setAttribute('aria-pressed', button.value === delivery));

  part('stuck').addEventListener('click', trying('stuck-said', () => act('stuck', {})));

  const slow = trying('slow-said', async how => {
    for (let n = 1; n <= SLOW_REQUESTS; n++) {
      const answer = await fetch(`/lab/slow/${how}`);
      if (!answer.ok) throw new Error((await answer.json()).detail);
      const { ms, computed_ms } = await answer.json();
      say(part('slow-said'), 'slow.done', { n, of: SLOW_REQUESTS, ms: Math.round(ms), computed: Math.round(computed_ms) });
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
    const { clients = 0, lost = 0, refused = 0, late_ms: late, own_most: own, asked } = lab;
    const fare = part('clients-fare');
    fare.dataset.clients = clients;
    if (late?.half != null) {
      say(fare, 'clients.fare', { clients, half: round(late.half), most: round(late.p99), lost });
    } else say(fare, clients ? 'clients.open' : '', { clients });
    if (asked > own) say(part('clients-said'), 'clients.own', { asked, most: own });
    else if (refused > 0) say(part('clients-said'), 'clients.refused', { refused });
    if (stuck !== `${lab.stuck} ${lab.given_up}`) {
      stuck = `${lab.stuck} ${lab.given_up}`;
      say(part('stuck-said'), 'stuck.now', { stuck: lab.stuck, given: lab.given_up });
    }
  };
}

const round = milliseconds => Math.round(milliseconds * 10) / 10;
