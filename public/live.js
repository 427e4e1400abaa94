// The live view: shows the server's status and its picture. With --lab, both come from /lab/watch;
// otherwise the status comes from /status/stream, and there is no picture.

import { findLab, lab } from './lab.js';
import { charts } from './charts.js';
import { figures } from './figures.js';
import { settings } from './settings.js';
import { threadList } from './threads.js';
import { allTexts, setText, setLanguage, t } from './words.js';

const root = document.documentElement;
await Promise.all([setLanguage(root.lang), findLab()]);

settings();
root.dataset.lab = lab.on ? 'on' : 'off';
const acts = [];                      // the acts of the last two minutes, which the charts mark
const draw = charts(acts);
const list = threadList();
const show = figures();
let model, picture, recording, bar, names = [], rate = 25;
let heard;                            // the silences up to now, also while the picture is paused
let controls = () => {};
let tour;
const facts = [];                     // the figures of the last statuses, for the tour
if (lab.on) {
  const [{ Model, Picture }, { Recording, replay }] = await Promise.all([import('./picture.js'), import('./replay.js')]);
  [model, heard, recording] = [new Model(), new Model(), new Recording()];
  recording.acts = acts;
  picture = new Picture(model);
  bar = replay(recording, model, picture, true);
  document.getElementById('replay-save').addEventListener('click', async () => {
    const { save } = await import('./save.js');
    await save(recording, allTexts());
  });
  controls = (await import('./controls.js')).controls(name => acts.push({ name, at: heard.at, time: performance.now() }));
} else {
  document.querySelector('.replay').remove();
  document.getElementById('controls-place').replaceWith(document.getElementById('no-lab').content.cloneNode(true));
}

// The server sends a status each second and a frame ten times a second. Without either for this
// time, in milliseconds, the figures are stale.
const STALE = 3_000;

const state = document.getElementById('state');
let source, received = performance.now();
let spoke, isFull = false;            // whether the stream has sent anything; whether it was rejected

function connect() {
  let table;
  spoke = false;
  source = new EventSource(lab.on ? '/lab/watch' : '/status/stream');
  source.onopen = () => {
    spoke = false;
    if (!isFull) tell('state.1');
  };
  source.onerror = async ({ target }) => {
    show.restart();
    if (target.readyState === EventSource.CLOSED) tell('state.2');
    if (!spoke) await tellFull();
    tellAge();
  };
  source.addEventListener('table', ({ data }) => {
    if (data !== table) names = JSON.parse(table = data);
  });
  source.addEventListener('frame', ({ data }) => {
    received = performance.now();
    const frame = recording.push(data, names, rate, show.shown());
    bar.arrived();
    heard.apply(frame, rate, acts, true);
    show.silences(heard);
    if (!bar.isLive) return;
    model.names = names;
    model.apply(frame, rate, acts);
    picture.draw();
  });
  source.onmessage = ({ data }) => {
    const status = JSON.parse(data);
    received = performance.now();
    [spoke, isFull] = [true, false];
    delete root.dataset.stale;
    rate = status.lab?.rate ?? rate;
    const figures = show.sample(status);
    facts.push({ time: received, clients: status.lab?.clients ?? 0, most: status.max_clients, delivery: status.delivery, ...show.facts() });
    if (facts.length > 20) facts.shift();
    draw(figures, status.delivery);
    list(status);
    controls(status);
    if (bar?.isLive) picture.draw(false, true);      // now, because the browser draws the status anyway
    state.dataset.state = 1;
    setText(state, 'state', { clients: status.clients, most: status.max_clients, delivery: t(`mark.${status.delivery}`) });
  };
}

function tell(key, values) {
  state.dataset.state = source.readyState;
  setText(state, key, values);
}

// A server at its limit ends a stream at once. Then the status says so, which is not a stream.
async function tellFull() {
  const status = await fetch('/status').then(response => response.json()).catch(() => undefined);
  isFull = status?.clients >= status?.max_clients;
  if (isFull) tell('state.full', { clients: status.clients, most: status.max_clients });
}

// Without news from the server, greys the figures and says since when.
function tellAge() {
  const age = performance.now() - received;
  if (document.hidden || source.readyState === EventSource.OPEN && age < STALE) return;
  root.dataset.stale = '';
  if (isFull) return;
  if (source.readyState !== EventSource.CLOSED) tell('state.lost', { seconds: Math.round(age / 1000) });
}
setInterval(tellAge, 1_000);

// A browser opens at most six connections to a server, so a hidden page releases its stream.
document.addEventListener('visibilitychange', () => {
  if (document.hidden) source.close();
  else if (source.readyState === EventSource.CLOSED) {
    show.restart();
    received = performance.now();
    connect();
  }
});

// The address of a step of the tour is /lab.html#step-4.
async function follow() {
  const step = location.hash.match(/^#step-(\d+)$/);
  root.toggleAttribute('data-tour', Boolean(step));
  if (!step) return tour?.leave();
  tour ??= (await import('./tour.js')).tour({ facts, model });
  tour.show(Number(step[1]));
  document.getElementById('tour').focus({ preventScroll: true });
}
if (lab.on) {
  addEventListener('hashchange', follow);
  await follow();
}

if (document.hidden) {
  source = { readyState: EventSource.CLOSED, close() {} };
} else connect();
root.dataset.ready = '';
