// What a thread waits for, from its state and the kernel function in which it sleeps.

// The first match counts. The names of these functions differ between kernel versions.
const WAITS = [
  [/futex/, 'notify'],
  [/accept/, 'accept'],
  [/epoll|ep_poll/, 'disconnect'],
  [/poll|stream_wait_memory/, 'room'],
  [/wait_woken|sk_wait_data|inet_recvmsg|tcp_recvmsg/, 'request'],
  [/pipe/, 'pipe'],
  [/unix/, 'signal'],
  [/nanosleep/, 'time'],
  [/io_schedule|folio|bit_wait|blk|jbd2/, 'disk'],
];

// Returns what a thread waits for: its key in the texts is `wait.` and this word.
export function meaning(state, waitsFor, name = '') {
  if (state === 'R') return 'running';
  if (state === 'r') return 'runnable';
  if (state === 'D') return 'disk';
  const found = WAITS.find(([pattern]) => pattern.test(waitsFor))?.[1] ?? 'unknown';
  return found === 'room' && name.startsWith('accept') ? 'accept' : found;
}
