// Writes the recorded picture to one HTML file that needs no server, for a handout. The page loads
// this file when the button is pressed.

import { t } from './words.js';

// The scripts that draw the picture, in the order in which they use each other.
const SCRIPTS = ['waits.js', 'picture.js', 'replay.js'];
const STYLES = ['style.css', 'live.css'];

const source = async file => (await fetch(file)).text();

// Returns the text of the file.
export async function page(recording, texts) {
  const root = document.documentElement;
  const styles = await Promise.all(STYLES.map(source));
  const scripts = await Promise.all(SCRIPTS.map(source));
  // In one script, the files see each other without imports.
  const joined = scripts.join('\n').replace(/^import .*$/gm, '').replace(/^export /gm, '');
  const picture = document.getElementById('picture').cloneNode(true);
  for (const filled of picture.querySelectorAll('.signs')) filled.replaceChildren();
  picture.querySelector('#replay-save').remove();
  // Most frames share the list of the threads' names.
  const tables = [...new Set(recording.entries.map(entry => entry.names))];
  const entries = recording.entries.map(entry => ({ ...entry, names: tables.indexOf(entry.names) }));
  const data = { texts, lang: root.lang, tables, entries, acts: recording.acts };
  return `<!doctype html>
<html lang="${root.lang}" data-theme="${root.dataset.theme}" data-size="${root.dataset.size}" data-ready data-saved>
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${t('title')}</title><style>${styles.join('\n')}</style></head>
<body><header class="top"><h1>threadcast</h1><p class="lead">${t('replay.saved', { date: new Date().toLocaleString(root.lang) })}</p></header>
<main><div class="stage">${picture.outerHTML}</div></main>
<script type="application/json" id="data">${JSON.stringify(data).replaceAll('<', '\\u003c')}</script>
<script type="module">
const { texts, lang, tables, entries, acts } = JSON.parse(document.getElementById('data').textContent);
const numbers = new Intl.NumberFormat(lang), languageChanges = new EventTarget();
const number = value => numbers.format(value);
const duration = milliseconds => \`\${number(Math.round(milliseconds / 100) / 10)} s\`;
const t = (key, values = {}) => String(texts[key]).replace(/\\{(\\w+)\\}/g, (_, name) => typeof values[name] === 'number' ? number(values[name]) : values[name]);
const writeText = (element, text) => { element.textContent = text; };
const setText = (element, key, values) => Object.assign(element, { textContent: key ? t(key, values) : '' });
${joined}
for (const entry of entries) entry.names = tables[entry.names];
const recording = Object.assign(new Recording(), { entries, acts }), model = new Model();
replay(recording, model, new Picture(model), false);
</script></body></html>
`;
}

export async function save(recording, texts) {
  const file = new Blob([await page(recording, texts)], { type: 'text/html' });
  const link = document.createElement('a');
  link.href = URL.createObjectURL(file);
  link.download = 'threadcast.html';
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
