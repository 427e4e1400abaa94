// The server that the panels connect to, and its lab, which exists only with --lab.

export const lab = { on: false, tab: Math.random().toString(36).slice(2, 10) };

// Finds out whether the lab exists. OPTIONS succeeds even for a path that does not exist, so the
// console shows no error.
export async function findLab() {
  try {
    const response = await fetch('/lab/drop', { method: 'OPTIONS' });
    lab.on = /\bPOST\b/.test(response.headers.get('Allow') ?? '');
  } catch {
    lab.on = false;
  }
}

export async function act(action, query) {
  const response = await fetch(`/lab/${action}?${new URLSearchParams(query)}`, { method: 'POST' });
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).detail ?? response.status);
  return response.json();
}

// Another server that the panels connect to, if the user enters one in the settings.
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
