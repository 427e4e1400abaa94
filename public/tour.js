// The tour: seven questions about threads. For each, the reader predicts the answer, acts on the
// server, and sees the figures before and after. The page loads this file when the tour starts.

import { languageChanges, number, setText, t, textSpan } from './words.js';

const CLIENTS = 1_000;              // fewer if the server does not hold as many
const RATE = 25;
const SETTLE = 4_000;               // from the end of the preparations to the figures before, in milliseconds
const NOTICED = 150;                // the shortest silence that is noticed, in milliseconds

// Returns on how many sides the clients noticed a handler of 200 ms. Other programs on the machine
// cause silences on both sides, so the threads' side counts only if it is about as silent as the loop.
// If a client was silent for as long before the act, the run decides nothing.
const noticed = ({ before, after: { threads, loop } }) => {
  if (Math.max(before.threads, before.loop) >= NOTICED) return undefined;
  if (loop < NOTICED) return 0;
  return threads < NOTICED || threads < .7 * loop ? 1 : 2;
};

// Each step has what must be so `before`, the `act`, how long its effect is measured, the `figures`,
// the line of `source`, and either a `choice` (how to find the true one) or a `slider`.
const STEPS = [
  {
    before: { clients: 0, rate: 0 }, act: ({ clients }) => clients(), seconds: 5, figures: ['server', 'busy'],
    choice: ({ before, after, opened }) => after.server - before.server >= .9 * opened ? 2 : after.server - before.server > 1 ? 1 : 0,
    source: ['src/http/connection.rs', 'let spawned = thread::Builder::new().name(peer.thread_name()).stack_size(STACK).spawn(serve)?;'],
  },
  {
    before: { clients: 0, rate: 0 }, act: ({ clients }) => clients(), seconds: 5, figures: ['each', 'eachLoop'],
    slider: { least: 10, most: 1_000, step: 10, first: 500, unit: 'KB', is: ({ after }) => after.each },
    source: ['src/stream/mod.rs', 'writer = match slot.take().write() {'],
  },
  {
    quote: true, before: { rate: 0 }, act: ({ rate }) => rate(), seconds: 7, figures: ['busy', 'micros', 'microsLoop'],
    choice: ({ after: { micros, microsLoop } }) => micros > 2 * microsLoop ? 0 : microsLoop > 2 * micros ? 2 : 1,
    source: ['src/broadcast/group.rs', 'writer.send_shared(bytes, batch.events, now).map(Next::after)'],
  },
  {
    before: {}, act: ({ press }) => press('#delivery [value=wake]'), undo: ({ press }) => press('#delivery [value=direct]'), seconds: 7, figures: ['micros', 'switches'],
    slider: { least: 1, most: 20, step: 1, first: 2, unit: '×', is: ({ before, after }) => after.micros / before.micros },
    source: ['src/stream/mod.rs', 'match slot.take_until(writer.due) {'],
  },
  {
    before: {}, act: ({ press }) => press('.slow[value=disk]'), seconds: 3, figures: ['threads', 'loop'],
    choice: noticed,
    source: ['src/lab/engine/event_loop/client.rs', 'let respond = slow.map(Slow::work).transpose()?;'],
  },
  {
    before: {}, act: ({ press }) => press('.slow[value=cpu]'), seconds: 3, figures: ['threads', 'loop'],
    choice: noticed,
    source: ['src/live/slow.rs', 'while started.elapsed() < TIME {'],
  },
  {
    before: {}, act: ({ press }) => press('#stuck'), seconds: 7, figures: ['blocked', 'threads'],
    choice: ({ before, after }) => after.threads > Math.max(NOTICED, 2 * before.threads) ? 2 : after.blocked > before.blocked ? 1 : 0,
    source: ['src/stream/socket.rs', 'match poll(&mut room, Some(&self.deadline)) {'],
  },
];

const stored = () => {
  try { return JSON.parse(localStorage.getItem('threadcast.tour')) ?? {}; } catch { return {}; }
};

// `facts` has the figures of the last statuses, and `model` those of the picture.
export function tour({ facts, model }) {
  const part = name => document.getElementById(`tour-${name}`);
  const kept = stored();
  const measured = {};                // what the steps with a slider have measured, by step
  let step, running = 0, undo;
  let told;                           // what the shown result was computed from

  const keep = value => {
    kept[step] = value;
    try { localStorage.setItem('threadcast.tour', JSON.stringify(kept)); } catch { /* kept until the page is closed */ }
    part('act').disabled = false;
  };

  // Ends the run of a step, and undoes its act.
  function leave() {
    running++;
    undo?.({ press });
    undo = undefined;
  }

  // Shows a step. Its number is in the address, so a step can be linked to.
  function show(wanted) {
    leave();
    step = wanted;
    told = undefined;
    const { choice, slider, source, quote } = STEPS[step - 1];
    setText(part('number'), 'tour.number', { step, of: STEPS.length });
    setText(part('ask'), `tour.${step}.ask`);
    part('quote').hidden = !quote;
    part('choices').hidden = !choice;
    part('slide').hidden = !slider;
    if (choice) part('choices').replaceChildren(...[0, 1, 2].map(option));
    else {
      Object.assign(part('slider'), { min: slider.least, max: slider.most, step: slider.step, value: kept[step] ?? slider.first });
      showSlider();
    }
    part('act').disabled = kept[step] === undefined;
    setText(part('act'), `tour.${step}.act`);
    setText(part('state'));
    part('result').hidden = true;
    setText(part('why'), `tour.${step}.why`);
    part('file').textContent = source[0];
    part('line').textContent = source[1];
    part('sum').hidden = step !== STEPS.length;
    part('back').disabled = step === 1;
    setText(part('next'), step === STEPS.length ? 'tour.end' : 'tour.next');
  }

  function option(index) {
    const label = document.createElement('label'), input = document.createElement('input');
    Object.assign(input, { type: 'radio', name: 'prediction', value: index, checked: kept[step] === index });
    input.addEventListener('change', () => keep(index));
    label.append(input, textSpan(`tour.${step}.${index}`));
    return label;
  }

  const showSlider = () => {
    const { unit } = STEPS[step - 1].slider;
    part('slid').textContent = `${number(Number(part('slider').value))} ${unit}`;
  };
  languageChanges.addEventListener('change', () => {
    if (STEPS[step - 1]?.slider) showSlider();
    if (told) tell(...told);
  });
  part('slider').addEventListener('input', showSlider);
  part('slider').addEventListener('change', () => keep(Number(part('slider').value)));

  part('act').addEventListener('click', async () => {
    const { before, act, seconds, figures, choice, slider } = STEPS[step - 1];
    const mine = ++running;
    const isOld = () => mine !== running;
    part('act').disabled = true;
    part('result').hidden = true;
    document.getElementById('replay-live').click();       // a paused picture has no new figures
    try {
      setText(part('state'), 'tour.prepares');
      await until(() => facts.length > 0, isOld);
      const clients = Math.min(CLIENTS, Math.max(0, facts.at(-1).most - 10));
      await prepare(before.clients ?? clients, before.rate ?? RATE, isOld);
      const began = mark();
      await pause(SETTLE, isOld);
      const first = taken(began);
      setText(part('state'), 'tour.acts');
      const from = mark();
      undo = STEPS[step - 1].undo;
      act({ press, rate: () => setRate(RATE), clients: () => setClients(clients) });
      await until(() => facts.at(-1).clients === clients, isOld);
      const acted = before.clients === 0 ? mark() : from;   // to open clients takes time
      await pause(seconds * 1_000, isOld);
      const result = { before: first, after: taken(acted), opened: clients };
      setText(part('state'));
      tell(result, figures, choice, slider);
      part('result').scrollIntoView({ block: 'nearest' });
    } catch (error) {
      if (!isOld()) setText(part('state'), 'failed', { why: error.message });
    }
    if (!isOld()) part('act').disabled = false;
  });

  function tell(...all) {
    const [result, figures, choice, slider] = told = all;
    const rows = figures.map(name => {
      const row = document.createElement('tr');
      const head = document.createElement('th');
      head.scope = 'row';
      head.append(textSpan(`tour.figure.${name}`));
      row.append(head, ...['before', 'after'].map(when => {
        const cell = document.createElement('td');
        const value = result[when][name];
        cell.textContent = value == null ? '–' : number(value < 100 ? Math.round(value * 10) / 10 : Math.round(value));
        return cell;
      }));
      return row;
    });
    part('rows').replaceChildren(...rows);
    if (choice) {
      const is = choice(result);
      part('result').dataset.right = is === kept[step];
      if (is === undefined) setText(part('verdict'), 'tour.unclear', { ms: number(Math.round(Math.max(result.before.threads, result.before.loop))) });
      else setText(part('verdict'), is === kept[step] ? 'tour.right' : 'tour.other', { said: t(`tour.${step}.${kept[step]}`), was: t(`tour.${step}.${is}`) });
    } else {
      const is = slider.is(result);
      measured[step] = is > 0 ? `${number(Math.round(is * 10) / 10)} ${slider.unit}` : undefined;
      part('result').dataset.right = Math.abs(is - kept[step]) < is / 2;
      setText(part('verdict'), 'tour.measured', { said: `${number(kept[step])} ${slider.unit}`, was: measured[step] ?? '–' });
    }
    const found = of => measured[of] ?? t('tour.sum.step', { step: of });
    setText(part('sum'), 'tour.sum', { memory: found(2), times: found(4) });
    part('result').hidden = false;
  }

  const mark = () => ({ at: model.at, time: performance.now() });

  // Returns the mean figures since a moment, and the longest silence since then. The first status
  // after an act still covers the time before it.
  function taken({ at, time }) {
    const since = facts.filter(fact => fact.time > time + 1_500);
    const mean = name => {
      const known = since.map(fact => fact[name]).filter(value => value != null);
      return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
    };
    const last = facts.at(-1) ?? {};
    const silence = side => Math.max(0, ...model.silences[side].filter(([when]) => when > at).map(([, silent]) => silent ?? 0));
    return {
      server: last.threads, each: last.each, eachLoop: last.eachLoop,
      busy: mean('busy'), micros: mean('micros'), microsLoop: mean('microsLoop'), switches: mean('switches'),
      threads: silence('threads'), loop: silence('loop'), blocked: model.cells.filter(cell => cell?.what === 'room').length,
    };
  }

  const press = selector => document.querySelector(selector).click();
  const setClients = count => {
    const field = document.getElementById('clients-number');
    field.value = count;
    field.dispatchEvent(new Event('change'));
  };
  const setRate = rate => {
    const slider = document.getElementById('rate');
    slider.value = rate;
    slider.dispatchEvent(new Event('input'));
    slider.dispatchEvent(new Event('change'));
  };

  async function prepare(clients, rate, isOld) {
    press('#delivery [value=direct]');
    document.getElementById('rate').value = rate;
    setClients(clients);
    await until(() => facts.at(-1)?.clients === clients && facts.at(-1).delivery === 'direct', isOld);
  }

  async function until(isSo, isOld) {
    for (let waited = 0; !isSo(); waited++) {
      if (waited > 60) throw new Error(t('tour.timeout'));
      await pause(500, isOld);
    }
  }

  // Waits, and ends the run if the reader has gone to another step.
  async function pause(milliseconds, isOld) {
    await new Promise(done => setTimeout(done, milliseconds));
    if (isOld()) throw new Error('another step');
  }

  part('back').addEventListener('click', () => { location.hash = `step-${step - 1}`; });
  part('next').addEventListener('click', () => { location.hash = step < STEPS.length ? `step-${step + 1}` : ''; });
  return { show: wanted => show(Math.min(STEPS.length, Math.max(1, wanted))), leave };
}
