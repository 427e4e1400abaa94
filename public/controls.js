// The live view's controls, which act on the server and on the event loop beside it. The page loads
// this file only if the server runs with --lab.

import { act } from './lab.js';
import { number, setText, writeText } from './words.js';

const SLOW_REQUESTS = 5;

// `note` is called with the name of each act, which the charts then mark.
export function controls(note) {
  document.getElementById('controls-place').replaceWith(document.getElementById('controls').content);
  const part = id => document.getElementById(id);
  // Shows an error, which the control that caused it clears with its next success.
  const guarded = (output, action) => async (...args) => {
    try {
      await action(...args);
    } catch (error) {
      setText(part(output), 'failed', { why: error.message });
    }
  };

  const slider = part('clients'), field = part('clients-number'), rate = part('rate');
  // Controls that the user holds do not follow the server.
  let held = 0;
  let limit = '';                   // what allows no more clients
  let engine = 'event-loop';        // of the right side
  const hold = () => { held = performance.now(); };
  const showRate = () => writeText(part('rate-shown'), number(Number(rate.value)));
  const open = guarded('clients-result', async count => {
    hold();
    note('clients');
    const { asked, opening, most } = await act('clients', { count, rate: rate.value, beside: engine });
    hold();
    setText(part('clients-result'), opening < asked ? 'clients.most' : '', { asked, most, limit });
  });
  slider.addEventListener('input', () => {
    hold();
    field.value = slider.value;
  });
  slider.addEventListener('change', () => open(slider.value));
  field.addEventListener('input', hold);
  field.addEventListener('change', () => {
    if (!field.checkValidity() || field.value === '') return field.reportValidity();
    slider.value = field.value;
    open(field.value);
  });
  rate.addEventListener('input', () => {
    hold();
    showRate();
  });
  rate.addEventListener('change', () => { if (Number(field.value) > 0) open(field.value); });
  part('close-all').addEventListener('click', () => {
    field.value = slider.value = 0;
    open(0);
  });

  const press = (group, value) => {
    for (const button of part(group).children) button.setAttribute('aria-pressed', button.value === value);
  };
  const onPress = (group, pressed) => part(group).addEventListener('click', ({ target }) => {
    const button = target.closest('button');
    if (button) pressed(button.value);
  });
  onPress('delivery', guarded('delivery-result', async to => {
    note(to);
    press('delivery', (await act('delivery', { to })).delivery);
    setText(part('delivery-result'));
  }));
  onPress('engine', async value => {
    engine = value;
    press('engine', engine);
    if (Number(field.value) > 0) await open(field.value);
  });
  press('engine', engine);

  part('stuck').addEventListener('click', guarded('stuck-result', async () => {
    note('stuck');
    await act('stuck', {});
  }));
  part('reopen').addEventListener('click', guarded('clients-result', async () => {
    note('reopen');
    const { reopening } = await act('reopen', {});
    setText(part('clients-result'), 'reopen.done', { clients: reopening });
  }));

  let hasLoop = false;
  const slow = guarded('slow-result', async how => {
    note(how);
    if (hasLoop) await act(`loop/slow/${how}`, {});
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
  return ({ delivery, lab, max_clients: max, capacity, binding_limit: binding }) => {
    press('delivery', delivery);
    // Without --max-clients, the server admits nine tenths of its capacity.
    limit = max < Math.floor(capacity * .89) ? '--max-clients' : binding;
    const { clients = 0, lost = 0, refused: rejected = 0, late_ms: late, own_most: own, asked, rate: itsRate, most } = lab;
    hasLoop = Boolean(lab.loop);
    const latency = part('clients-latency');
    latency.dataset.clients = clients;
    if (late?.half != null) {
      setText(latency, 'clients.latency', { clients, half: round(late.half), most: round(late.p99), lost });
    } else setText(latency, clients ? 'clients.open' : '', { clients });
    if (performance.now() - held > 1_500) {
      field.value = slider.value = asked;
      press('engine', engine = lab.loop?.engine ?? engine);
      if (asked > 0 && itsRate != null) rate.value = itsRate;
      showRate();
    }
    if (asked > own) setText(part('clients-result'), 'clients.own', { asked, most: own });
    else if (asked > most) setText(part('clients-result'), 'clients.most', { asked, most, limit });
    else if (rejected > 0) setText(part('clients-result'), 'clients.rejected', { rejected });
    if (stuck !== `${lab.stuck} ${lab.given_up}`) {
      stuck = `${lab.stuck} ${lab.given_up}`;
      setText(part('stuck-result'), 'stuck.now', { stuck: lab.stuck, given: lab.given_up });
    }
  };
}

const round = milliseconds => Math.round(milliseconds * 10) / 10;
