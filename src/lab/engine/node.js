// Node's http module: one thread, one write for each client and event.
'use strict';
const clients = new Set();
const fs = require('fs');
const slow = { // these handlers block all clients, as no handler should
  '/lab/slow/cpu': () => { for (const end = performance.now() + 200; performance.now() < end;); },
  '/lab/slow/disk': () => { for (const end = performance.now() + 200; performance.now() < end;) fs.readFileSync(process.execPath); },
};
const server = require('http').createServer((request, response) => {
  if (slow[request.url]) { slow[request.url](); return response.end('{}'); }
  response.writeHead(200, { 'Content-Type': 'text/event-stream; charset=utf-8', 'Cache-Control': 'no-cache' });
  response.write(`retry: 3000\nid: ${number}\n\n`);
  clients.add(response);
  response.on('close', () => clients.delete(response));
}); // noDelay and chunked encoding are on by default
server.listen(0, '127.0.0.1', () => console.log(`127.0.0.1:${server.address().port}`));

let rate = 0, size = 0, since = 0, issued = 0, number = 0, timer;
function tick() {
  const due = Math.floor(((performance.now() - since) * rate) / 1000);
  // Sends at most 100 events per call, so that Node also serves the sockets if this thread is too
  // slow for the rate.
  for (const until = Math.min(due, issued + 100); issued < until; issued++) {
    const nanos = Math.round((performance.timeOrigin + performance.now()) * 1000) + '000';
    const frame = `id: ${++number}\ndata: ${number} ${nanos} `;
    const whole = frame + 'x'.repeat(Math.max(0, size - frame.length - 3)) + '~\n\n';
    for (const client of clients) client.write(whole, 'latin1');
  }
  const next = ((issued + 1) * 1000) / rate - (performance.now() - since);
  timer = setTimeout(tick, Math.max(1, next));
}

require('readline').createInterface({ input: process.stdin }).on('line', (line) => {
  [rate, size] = line.split(' ').map(Number);
  [since, issued] = [performance.now(), 0];
  clearTimeout(timer);
  if (rate > 0) tick();
}).on('close', () => process.exit());
