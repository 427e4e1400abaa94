// What the server lets this page break, which is nothing unless it was started with --lab.

export const lab = { on: false, tab: Math.random().toString(36).slice(2, 10) };

// Asked for by OPTIONS: a path that is not there answers that too, and no error stands in the console.
export async function findLab() {
  try {
    const answer = await fetch('/lab/drop', { method: 'OPTIONS' });
    lab.on = /\bPOST\b/.test(answer.headers.get('Allow') ?? '');
  } catch {
    lab.on = false;
  }
}

export async function act(what, query) {
  const answer = await fetch(`/lab/${what}?${new URLSearchParams(query)}`, { method: 'POST' });
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).detail ?? answer.status);
  return answer.json();
}
