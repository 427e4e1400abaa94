// Listens with one client library from npm and prints what the library delivers, one JSON object
// per line: {"data", "event", "id"} for a message, {"end": reason} once the library has stopped.
//
//     node listen.mjs LIBRARY URL [TOKEN]
//
// Each function follows its library's README. Where the library leaves reconnecting to the
// application, the function contains the reconnect loop.

import {createRequire} from 'node:module'

const [library, url, token] = process.argv.slice(2)
const require = createRequire(`${process.env.NODE_MODULES}/`)
const headers = token ? {Authorization: `Bearer ${token}`} : {}

/** The event names that the test publishes besides `message`. */
const NAMES = ['named', 'gap', 'update', 'hi', 'end']

const print = (line) => process.stdout.write(`${JSON.stringify(line)}\n`)
const message = ({data, event, type, id, lastEventId}) =>
  print({data, event: event ?? type ?? 'message', id: id ?? lastEventId ?? null})
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

/** Listens with a library that has the interface of the browser's EventSource. */
function listen(source) {
  source.onmessage = message
  NAMES.forEach((name) => source.addEventListener(name, message))
  // Some libraries report the error before they close.
  source.onerror = (error) => setImmediate(() => {
    if (source.readyState !== 2) return
    print({end: String(error?.message ?? error?.status ?? 'closed')})
    process.exit(0)
  })
}

const withHeaders = {
  fetch: (input, init) => fetch(input, {...init, headers: {...init.headers, ...headers}}),
}

const LIBRARIES = {
  'eventsource 2': () => listen(new (require('eventsource-2'))(url, {headers})),
  'eventsource 3': () => listen(new (require('eventsource-3').EventSource)(url, withHeaders)),
  'eventsource 4': () => listen(new (require('eventsource-4').EventSource)(url, withHeaders)),
  'event-source-polyfill': () => {
    const {EventSourcePolyfill} = require('event-source-polyfill')
    listen(new EventSourcePolyfill(url, {headers}))
  },
  'reconnecting-eventsource': () => {
    const ReconnectingEventSource = require('reconnecting-eventsource').default
    listen(new ReconnectingEventSource(url, {eventSourceClass: require('eventsource-2'), headers}))
  },
  '@microsoft/fetch-event-source': async () => {
    // The library expects a browser, so it needs these two globals.
    globalThis.window = globalThis
    globalThis.document = {hidden: false, addEventListener() {}, removeEventListener() {}}
    const {fetchEventSource} = require('@microsoft/fetch-event-source')
    class Ended extends Error {}
    await fetchEventSource(url, {
      headers,
      onmessage: message,
      onopen: async (response) => {
        if (response.status === 204 || response.status >= 400) throw new Ended(response.status)
      },
      onclose: () => { throw new Error('the stream ended; reconnect') },
      onerror: (error) => { if (error instanceof Ended) throw error },
    }).catch((error) => print({end: error.message}))
  },
  'eventsource-parser': async () => {
    const {createParser} = require('eventsource-parser')
    let [last, retry] = ['', 1000]
    for (;;) {
      try {
        const cursor = last ? {'Last-Event-ID': last} : {}
        const response = await fetch(url, {
          headers: {Accept: 'text/event-stream', ...cursor, ...headers},
        })
        if (response.status !== 200) return print({end: String(response.status)})
        const parser = createParser({
          onEvent: (event) => {
            last = event.id ?? last
            message(event)
          },
          onRetry: (ms) => { retry = ms },
        })
        for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
          parser.feed(text)
        }
      } catch {
        // The connection was cut: reconnect.
      }
      await sleep(retry)
    }
  },
  'eventsource-client': async () => {
    const {createEventSource} = require('eventsource-client')
    const source = createEventSource({url, headers})
    for await (const event of source) message(event)
    print({end: source.readyState})
  },
}

await LIBRARIES[library]()
