// Opens a stream for each tab id in the page's query, and publishes reports for the test to the
// channel `report`. A report says that a stream has opened for the first time, or that the browser
// has stopped reconnecting. When the event `end` arrives, a report has all messages of the stream.

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
