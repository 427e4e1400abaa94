// Applies the stored language, colours and size before the first paint.
// It is a classic script without `defer`, because a module would run after the page is painted.
{
  const root = document.documentElement;
  const stored = name => { try { return localStorage.getItem(`threadcast.${name}`); } catch { return null; } };
  root.lang = stored('lang') ?? (navigator.language.startsWith('zh') ? 'zh-Hans' : 'en');
  root.dataset.theme = stored('theme') ?? 'auto';
  root.dataset.size = stored('size') ?? 'normal';
  if (root.lang !== 'en') {
    root.dataset.wait = '';           // hides the page until it is translated, at most 1 s
    setTimeout(() => delete root.dataset.wait, 1000);
  }
}
