// Opens a stream for each tab id in the page's query, and reports to the test on the channel `report`:
// that a stream is open for the first time, that the browser gave a stream up, and, at `end`, all messages.

const report = what => fetch('/channels/report', {
  method: 'POST', headers: { 'Content-Type': 'text/plain' }, body: JSON.stringify(what),
});

for (const tab of new URLSearchParams(location.search).getAll('tab')) {
  const source = new EventSource(`/channels/news?tab=${tab}`);
  const got = [];
  source.addEventListener('open', () => report({ tab, open: true }), { once: true });
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) report({ tab, closed: true });
  };
  source.onmessage = ({ data }) => {
    if (data === 'end') report({ tab, got });
    else got.push(data);
  };
}
