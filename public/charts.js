// The charts: the last two minutes of each figure as a line, and the same figures as a table.
// The page gets a status each second and redraws every chart. A redraw sets one attribute per line.

import { brief, number, textSpan, languageChanges, t, writeText } from './words.js';

const SPAN = 120_000;               // milliseconds from the left edge to the right edge
const WIDTH = 120, HEIGHT = 40;     // of the view box, which is stretched to the chart's size
const ROWS = 20;                    // of the table, at most
const SVG = 'http://www.w3.org/2000/svg';

const plain = value => number(Math.round(value));
const short = value => brief(Math.round(value));
const mega = bytes => number(Math.round(bytes / 1e5) / 10);
const tenth = value => number(value < 100 ? Math.round(value * 10) / 10 : Math.round(value));
const percent = share => number(Math.round(share * 1000) / 10);

// With `floor: false`, a chart's scale need not begin at 0. `axis` is the unit at its upper end. `head`
// writes the figures above a chart, if two must fit into its width.
const CHARTS = [
  { name: 'clients', lines: ['clients'], dye: 'indigo', write: plain },
  { name: 'threads', lines: ['threads'], dye: 'woad', write: plain },
  { name: 'memory', lines: ['memory'], dye: 'plum', write: mega, axis: 'MB' },
  { name: 'kernel', lines: ['kernel'], dye: 'walnut', write: mega, axis: 'MB', floor: false },
  { name: 'switches', lines: ['voluntary', 'involuntary'], dye: 'madder', write: plain, head: short, axis: '/s' },
  { name: 'events', lines: ['out', 'in'], dye: 'moss', write: plain, head: short, axis: '/s' },
  { name: 'micros', lines: ['micros'], dye: 'weld', write: tenth, axis: 'µs' },
  { name: 'busy', lines: ['busy'], dye: 'slate', write: percent, axis: '%' },
];

// `acts` is the list of the user's acts, which is kept short here. Each has its `time`.
export function charts(acts) {
  const samples = [];               // each has the time `at`, the delivery mode, and the figures
  const all = CHARTS.map(chart => new Chart(chart));
  document.getElementById('grid').append(...all.map(chart => chart.root));
  const table = new Table();
  const draw = () => {
    all.forEach(chart => chart.draw(samples, acts));
    table.draw(samples);
  };
  languageChanges.addEventListener('change', draw);
  return (figures, delivery) => {
    const at = performance.now();
    samples.push({ at, delivery, ...figures });
    while (samples[0].at < at - SPAN) samples.shift();
    while (acts[0]?.time < at - SPAN) acts.shift();
    draw();
  };
}

class Chart {
  #values;
  #paths;
  #marks = element('path');
  #top = document.createElement('span');
  #bottom = document.createElement('span');
  #drawn;

  constructor(chart) {
    this.chart = chart;
    this.root = document.createElement('figure');
    this.root.id = `chart-${chart.name}`;
    this.root.dataset.dye = chart.dye;
    this.#values = chart.lines.map(line => {
      const value = document.createElement('output');
      value.dataset.line = line;
      return value;
    });
    const svg = element('svg');
    svg.setAttribute('viewBox', `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute('preserveAspectRatio', 'none');
    svg.setAttribute('aria-hidden', 'true');
    this.#marks.setAttribute('class', 'changed');
    this.#paths = chart.lines.map(line => {
      const path = element('path');
      path.dataset.line = line;
      return path;
    });
    svg.append(this.#marks, ...this.#paths);
    const caption = document.createElement('figcaption');
    const title = document.createElement('h3');
    title.append(textSpan(`chart.${chart.name}`));
    const legend = document.createElement('p');
    for (const [index, line] of chart.lines.entries()) {
      const unit = chart.lines.length > 1 ? `unit.${line}` : `unit.${chart.name}`;
      const one = document.createElement('span');
      one.dataset.line = line;
      one.append(this.#values[index], ' ', textSpan(unit));
      legend.append(one);
    }
    caption.append(title, legend);
    const picture = document.createElement('div');
    picture.className = 'picture';
    picture.append(svg, this.#top, this.#bottom);
    const axis = document.createElement('p');
    axis.className = 'axis';
    axis.append(textSpan('axis.start'), textSpan('axis.end'));
    this.root.append(caption, picture, axis);
  }

  draw(samples, acts) {
    const { lines, write, head = write, floor = true, axis = '' } = this.chart;
    const last = samples.at(-1);
    if (!last) return;
    lines.forEach((line, index) => {
      const value = last[line];
      this.#values[index].dataset.value = value ?? '';
      writeText(this.#values[index], value == null ? '–' : head(value));
    });
    const known = lines.flatMap(line => samples.map(sample => sample[line])).filter(value => value != null);
    const [low, high] = scale(known, floor);
    this.root.dataset.low = low;
    this.root.dataset.high = high;
    writeText(this.#top, `${head(high)} ${axis}`);
    writeText(this.#bottom, head(low));
    const x = at => (WIDTH - (last.at - at) / SPAN * WIDTH).toFixed(2);
    const y = value => (HEIGHT - 1 - (value - low) / (high - low) * (HEIGHT - 2)).toFixed(2);
    lines.forEach((line, index) => {
      let pen = 'M';
      let path = '';
      for (const sample of samples) {
        if (sample[line] == null) pen = 'M';
        else {
          path += `${pen}${x(sample.at)} ${y(sample[line])}`;
          pen = 'L';
        }
      }
      this.#paths[index].setAttribute('d', path);
    });
    // Another page may have changed the delivery mode.
    const changed = samples.filter((sample, index) => index > 0 && sample.delivery !== samples[index - 1].delivery);
    const marks = [...acts.map(act => act.time), ...changed.map(sample => sample.at)];
    this.#marks.setAttribute('d', marks.map(at => `M${x(at)} 0V${HEIGHT}`).join(''));
  }
}

// Returns the lower and upper end of a chart's scale: 0 (without `floor`, a little below the least
// value), and a round number above the largest value.
function scale(values, floor) {
  const most = Math.max(0, ...values);
  if (floor) return [0, round(most) || 1];
  const least = Math.min(...values, most);
  const room = Math.max(most - least, most / 100);
  const step = 10 ** Math.floor(Math.log10(room || 1));
  return [Math.max(0, Math.floor((least - room / 10) / step) * step), Math.ceil((most + room / 10) / step) * step || 1];
}

function round(value) {
  if (value <= 0) return 0;
  const step = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find(times => times * step >= value) * step;
}

class Table {
  #table = document.getElementById('table');
  #place = document.getElementById('table-place');
  #samples = [];

  constructor() {
    const toggle = document.getElementById('table-toggle');
    toggle.addEventListener('click', () => {
      this.#place.hidden = !this.#place.hidden;
      toggle.setAttribute('aria-expanded', !this.#place.hidden);
      this.draw(this.#samples);
    });
  }

  draw(samples) {
    this.#samples = samples;
    if (this.#place.hidden || samples.length === 0) return;
    const columns = CHARTS.flatMap(({ name, lines, write }) => lines.map(line => ({ line, name, write, several: lines.length > 1 })));
    const head = cells('th', [t('table.ago'), ...columns.map(({ name, line, several }) =>
      `${t(`chart.${name}`)} (${t(several ? `unit.${line}` : `unit.${name}`)})`)]);
    const now = samples.at(-1).at;
    const rows = samples.slice(-ROWS).reverse().map(sample => cells('td', [
      number(Math.round((now - sample.at) / 1000)),
      ...columns.map(({ line, write }) => sample[line] == null ? '–' : write(sample[line])),
    ]));
    this.#table.tHead.replaceChildren(head);
    this.#table.tBodies[0].replaceChildren(...rows);
  }
}

function cells(kind, texts) {
  const row = document.createElement('tr');
  row.append(...texts.map(text => {
    const cell = document.createElement(kind);
    if (kind === 'th') cell.scope = 'col';
    cell.textContent = text;
    return cell;
  }));
  return row;
}

function element(name) { return document.createElementNS(SVG, name); }
