// Language, colours and size: three rows of buttons, of which one each is pressed. boot.js reads what is kept here.

import { speak } from './words.js';

const root = document.documentElement;

export function remember(name, value) {
  try { localStorage.setItem(`threadcast.${name}`, value); } catch { /* a browser that keeps nothing still shows it */ }
}

const apply = {
  lang: value => speak(value),
  theme(value) { root.dataset.theme = value; remember('theme', value); },
  size(value) { root.dataset.size = value; remember('size', value); },
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
