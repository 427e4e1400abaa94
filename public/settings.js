// Language, colours and size: three rows of buttons. The choices are stored; boot.js reads them at
// the next load.

import { setLanguage } from './words.js';

const root = document.documentElement;

export function saveSetting(name, value) {
  try { localStorage.setItem(`threadcast.${name}`, value); } catch { /* without storage the choice holds until the page is closed */ }
}

const apply = {
  lang: value => setLanguage(value),
  theme(value) { root.dataset.theme = value; saveSetting('theme', value); },
  size(value) { root.dataset.size = value; saveSetting('size', value); },
};

export function settings() {
  for (const row of document.querySelectorAll('[data-setting]')) {
    const name = row.dataset.setting;
    const press = value => {
      for (const button of row.children) button.setAttribute('aria-pressed', button.value === value);
    };
    press(name === 'lang' ? root.lang : root.dataset[name]);
    row.addEventListener('click', ({ target }) => {
      const button = target.closest('button');
      if (!button) return;
      apply[name](button.value);
      press(button.value);
    });
  }
}
