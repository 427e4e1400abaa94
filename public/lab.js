// The lab of the server, which exists only if the server was started with --lab.

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
