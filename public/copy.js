// A button at each code sample that copies its text.

import { setText } from './words.js';

export function copyButtons() {
  document.addEventListener('click', async ({ target }) => {
    const button = target.closest?.('[data-copy]');
    if (!button) return;
    const sample = button.parentElement.querySelector('code');
    try {
      await navigator.clipboard.writeText(sample.textContent);
    } catch {
      // Without https or permission the page cannot use the clipboard: select the text, so that the
      // user can copy it.
      getSelection().selectAllChildren(sample);
      return setText(button, 'selected');
    }
    setText(button, 'copied');
    setTimeout(() => setText(button, 'copy'), 2000);
  });
}
