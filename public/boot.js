// Before anything is painted: the language, the colours and the size that were chosen last.
// No module, and not deferred, so that the page never shows itself in another way first.
{
  const root = document.documentElement;
  const chosen = name => { try { return localStorage.getItem(`threadcast.${name}`); } catch { return null; } };
  root.lang = chosen('lang') ?? (navigator.language.startsWith('zh') ? 'zh-Hans' : 'en');
  root.dataset.theme = chosen('theme') ?? 'auto';
  root.dataset.size = chosen('size') ?? 'normal';
  if (root.lang !== 'en') {
    root.dataset.wait = '';           // words.js takes it away; after a second it has no effect in any case
    setTimeout(() => delete root.dataset.wait, 1000);
  }
}
