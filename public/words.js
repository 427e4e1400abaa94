// The texts of a page in two languages. The HTML contains the English texts. Each element with such
// a text has the key of the text in `data-t`, or in `data-t-label` and `data-t-placeholder` for
// attributes. en.js contains the English texts that scripts insert, and zh.js all Chinese texts.
// `data-words` on the root element is the prefix of these two file names.
//
// A text that a script has inserted keeps its key and values, so that it can be translated later.

import { saveSetting } from './settings.js';

const root = document.documentElement;
const prefix = root.dataset.words ?? '';
const { default: en } = await import(`./${prefix}en.js`);
const dictionaries = { en };
const later = {};                     // Chinese texts of parts that are loaded later
const english = new Map();            // the English texts of the HTML, by key

let texts = en;
let numbers, compacts, seconds, times;

export const languageChanges = new EventTarget();        // dispatches `change`: a new language

export const number = value => numbers.format(value);
export const brief = value => (value < 10_000 ? numbers : compacts).format(value);      // 25K for 25,000
export const duration = milliseconds => seconds.format(milliseconds / 1000);
export const clock = (date = new Date()) => times.format(date);

// Returns the text of a key, with its values inserted.
export function t(key, values = {}) {
  const text = texts[key];
  if (text === undefined) console.error(`no text for ${key}`);
  return String(text).replace(/\{(\w+)\}/g, (_, name) => shown(values[name]));
}

// Returns all texts that scripts insert, in the page's language.
export const allTexts = () => texts;

const shown = value => typeof value === 'number' ? number(value) : value;

// Sets an element's text. Without a key, the element becomes empty.
export function setText(element, key, values) {
  if (!key) {
    delete element.dataset.key;
    element.textContent = '';
    return element;
  }
  element.dataset.key = key;
  if (values) element.dataset.values = JSON.stringify(values);
  else delete element.dataset.values;
  writeText(element, t(key, values));
  return element;
}

// Sets an element's text, unless it is the same: to replace a text costs a layout.
export function writeText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Returns a new element with a text.
export const textSpan = (key, values) => setText(document.createElement('span'), key, values);

export async function setLanguage(lang) {
  const name = lang === 'en' ? 'en' : 'zh';
  if (!dictionaries[name]) dictionaries.zh = Object.assign(later, (await import(`./${prefix}zh.js`)).default);
  texts = dictionaries[name];
  root.lang = lang;
  saveSetting('lang', lang);
  numbers = new Intl.NumberFormat(lang);
  compacts = new Intl.NumberFormat(lang, { notation: 'compact', maximumFractionDigits: 1 });
  seconds = new Intl.NumberFormat(lang, {
    style: 'unit', unit: 'second', unitDisplay: 'narrow', minimumFractionDigits: 1, maximumFractionDigits: 1,
  });
  times = new Intl.DateTimeFormat(lang, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });

  document.title = t('title');
  for (const element of selectAll('[data-t]')) translate(element.dataset.t, text => { element.innerHTML = text; },
    () => element.innerHTML);
  for (const attribute of ['label', 'placeholder']) {
    const real = attribute === 'label' ? 'aria-label' : attribute;
    for (const element of selectAll(`[data-t-${attribute}]`)) {
      translate(element.getAttribute(`data-t-${attribute}`), text => element.setAttribute(real, text),
        () => element.getAttribute(real));
    }
  }
  for (const element of selectAll('[data-key]')) {
    element.textContent = t(element.dataset.key, JSON.parse(element.dataset.values ?? '{}'));
  }
  delete root.dataset.wait;
  languageChanges.dispatchEvent(new Event('change'));
}

// Adds the texts of a part of the page that is loaded later, and translates that part.
export function addTexts(more) {
  Object.assign(en, more.en);
  Object.assign(later, more.zh);
  return setLanguage(root.lang);
}

// Finds elements in the document and in its templates.
function selectAll(selector) {
  const within = [document, ...[...document.querySelectorAll('template')].map(template => template.content)];
  return within.flatMap(part => [...part.querySelectorAll(selector)]);
}

// Replaces a text of the HTML. The first call for a key stores the English text, so that it can be
// restored.
function translate(key, write, read) {
  if (!english.has(key)) english.set(key, read());
  const text = texts === en ? english.get(key) : texts[key];
  if (text === undefined) console.error(`no text for ${key}`);
  else write(text);
}
