// Opens clients on the live view, lets a handler read the disk, and reports what the page showed and
// what the load clients measured meanwhile. The test adds this script to the page.

const clients = 1000, rate = 20, attempts = 30;

// A pause of the whole machine silences all clients once; the median of the frames does not show it.
const median = values => values.toSorted((one, other) => one - other)[values.length >> 1] ?? 0;

const until = (what, condition) => new Promise((done, failed) => {
  const deadline = performance.now() + 100_000;
  const look = setInterval(() => {
    if (condition()) done(clearInterval(look));
    else if (performance.now() > deadline) failed(new Error(`never: ${what}`));
  }, 20);
});
const number = selector => Number(document.querySelector(selector)?.dataset.value || NaN);
const report = body => fetch('/channels/report', { method: 'POST', body: JSON.stringify(body) });

try {
  await until('the page has its controls', () => 'ready' in document.documentElement.dataset && document.getElementById('acts'));
  document.getElementById('rate').value = rate;
  const field = document.getElementById('clients-number');
  field.value = clients;
  field.dispatchEvent(new Event('change'));
  let seen;
  const all = () => number('#loop-legend [data-of=fresh]') + number('#loop-legend [data-of=late]') + number('#loop-legend [data-of=silent]');
  await until('all clients get events', () => all() === clients && number('#threads-figures [data-figure=silence]') > 0 && number('#loop-figures [data-figure=silence]') > 0);
  const watch = new EventSource('/lab/watch');
  watch.addEventListener('frame', ({ data }) => {
    if (!seen) return;
    const frame = JSON.parse(data);
    seen.threads.push(frame.clients.silent_ms ?? 0);
    seen.loop.push(frame.loop.silent_ms ?? 0);
    seen.disk = Math.max(seen.disk, number('#threads-legend [data-of=disk]'));
    seen.waiting = Math.max(seen.waiting, number('#loop-legend [data-of=silent]') + number('#loop-legend [data-of=late]'));
  });
  await until('the second stream is open', () => watch.readyState === EventSource.OPEN);
  const button = document.querySelector('.slow[value=disk]');
  for (let n = 0; n < attempts; n++) {
    seen = { threads: [], loop: [], disk: 0, waiting: 0 };
    button.click();
    await until('the requests have begun', () => button.disabled);
    await until('the requests are over', () => !button.disabled);
    const { threads, loop, ...shown } = seen;
    await report({ clients, threads: median(threads), loop: median(loop), ...shown });
  }
} catch (error) {
  await report({ failed: String(error) });
}
