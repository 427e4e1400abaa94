// A page in two languages. What stands in the HTML is English, and each such element has a key (data-t, or
// data-t-label and data-t-placeholder for attributes); what scripts say is in en.js; zh.js has both in Chinese. Another page has words of its own: its root says
// what their files' names begin with (data-words).
// What was said can be said again in the other language: it keeps its key and its values.

import { remember } from './settings.js';

const root = document.documentElement;
const of = root.dataset.words ?? '';
const { default: en } = await import(`./${of}en.js`);
const dictionaries = { en };
const english = new Map();            // what stood in the HTML, by key

let words = en;
let numbers, seconds, times;

export const spoken = new EventTarget();        // dispatches `change`

export const number = value => numbers.format(value);
export const duration = milliseconds => seconds.format(milliseconds / 1000);
export const clock = (date = new Date()) => times.format(date);

export function t(key, values = {}) {
  const text = words[key];
  if (text === undefined) console.error(`no word for ${key}`);
  return String(text).replace(/\{(\w+)\}/g, (_, name) => shown(values[name]));
}

const shown = value => typeof value === 'number' ? number(value) : value;

export function say(element, key, values) {
  if (!key) {
    delete element.dataset.say;
    element.textContent = '';
    return element;
  }
  element.dataset.say = key;
  if (values) element.dataset.with = JSON.stringify(values);
  else delete element.dataset.with;
  element.textContent = t(key, values);
  return element;
}

export const said = (key, values) => say(document.createElement('span'), key, values);

export async function speak(lang) {
  const name = lang === 'en' ? 'en' : 'zh';
  if (!dictionaries[name]) dictionaries.zh = (await import(`./${of}zh.js`)).default;
  words = dictionaries[name];
  root.lang = lang;
  remember('lang', lang);
  numbers = new Intl.NumberFormat(lang);
  seconds = new Intl.NumberFormat(lang, {
    style: 'unit', unit: 'second', unitDisplay: 'narrow', minimumFractionDigits: 1, maximumFractionDigits: 1,
  });
  times = new Intl.DateTimeFormat(lang, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });

  document.title = t('title');
  for (const element of everywhere('[data-t]')) translate(element.dataset.t, text => { element.innerHTML = text; },
    () => element.innerHTML);
  for (const attribute of ['label', 'placeholder']) {
    const real = attribute === 'label' ? 'aria-label' : attribute;
    for (const element of everywhere(`[data-t-${attribute}]`)) {
      translate(element.getAttribute(`data-t-${attribute}`), text => element.setAttribute(real, text),
        () => element.getAttribute(real));
    }
  }
  for (const element of everywhere('[data-say]')) {
    element.textContent = t(element.dataset.say, JSON.parse(element.dataset.with ?? '{}'));
  }
  delete root.dataset.wait;
  spoken.dispatchEvent(new Event('change'));
}

// Templates hold words too, for panels that are still to be made.
function everywhere(selector) {
  const within = [document, ...[...document.querySelectorAll('template')].map(template => template.content)];
  return within.flatMap(part => [...part.querySelectorAll(selector)]);
}

// The HTML is the English dictionary: it is read off before it is first replaced.
function translate(key, write, read) {
  if (!english.has(key)) english.set(key, read());
  const text = words === en ? english.get(key) : words[key];
  if (text === undefined) console.error(`no word for ${key}`);
  else write(text);
}
