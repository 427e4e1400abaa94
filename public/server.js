// Which server the panels talk to: the page's own origin, unless the reader names another.

import { lab } from './lab.js';

const field = document.getElementById('server');

export function address(route) {
  const url = new URL(route, field.value.trim() || location.origin);
  if (lab.on && url.origin === location.origin) url.searchParams.set('tab', lab.tab);
  return url;
}

// 127.0.0.1 and localhost are one machine and two origins: the nearest cross-origin server there is.
export function offerTheOtherOrigin() {
  field.placeholder = location.origin;
  const twin = { '127.0.0.1': 'localhost', localhost: '127.0.0.1' }[location.hostname];
  if (!twin) return;
  const other = new URL(location.origin);
  other.hostname = twin;
  const option = document.createElement('option');
  option.value = other.origin;
  document.getElementById('servers').append(option);
}
