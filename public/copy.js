// Code that can be taken along: a button at each sample copies its text.

import { say } from './words.js';

export function copyButtons() {
  document.addEventListener('click', async ({ target }) => {
    const button = target.closest?.('[data-copy]');
    if (!button) return;
    const sample = button.parentElement.querySelector('code');
    try {
      await navigator.clipboard.writeText(sample.textContent);
    } catch {
      // No clipboard without https or permission: the text is selected, and the keyboard copies it.
      getSelection().selectAllChildren(sample);
      return say(button, 'selected');
    }
    say(button, 'copied');
    setTimeout(() => say(button, 'copy'), 2000);
  });
}
