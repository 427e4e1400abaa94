// The server that the panels connect to: the page's origin, unless the user enters another.

import { lab } from './lab.js';

const field = document.getElementById('server');

export function address(route) {
  const url = new URL(route, field.value.trim() || location.origin);
  if (lab.on && url.origin === location.origin) url.searchParams.set('tab', lab.tab);
  return url;
}

// Suggests this server under its other name, to try another origin: 127.0.0.1 and localhost are one
// machine, but two origins.
export function offerOtherOrigin() {
  field.placeholder = location.origin;
  const otherName = { '127.0.0.1': 'localhost', localhost: '127.0.0.1' }[location.hostname];
  if (!otherName) return;
  const other = new URL(location.origin);
  other.hostname = otherName;
  const option = document.createElement('option');
  option.value = other.origin;
  document.getElementById('servers').append(option);
}
