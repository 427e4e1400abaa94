// Writes with an idempotent producer, and reads live by SSE and by long-poll, with the official
// client; then resumes, and forks. Prints what it has read as JSON.
import { DurableStream, IdempotentProducer, stream } from "@durable-streams/client"

const root = `${process.env.SERVER}/v1/stream`
const url = `${root}/clients/js`

async function follow(live, offset = "-1", from = url) {
  const items = []
  const response = await stream({ url: from, offset, live })
  for await (const item of response.jsonStream()) items.push(item)
  return items
}

const handle = await DurableStream.create({ url, contentType: "application/json" })
const readers = ["sse", "long-poll"].map((live) => follow(live))
const producer = new IdempotentProducer(handle, "producer", { lingerMs: 1 })
for (let n = 0; n < 100; n++) {
  producer.append(JSON.stringify({ n, text: ` token ${n}` }))
  if (n % 10 === 9) await producer.flush()
}
const middle = (await handle.head()).offset
const fork = await DurableStream.create({
  url: `${url}/fork`,
  headers: { "Stream-Forked-From": "/v1/stream/clients/js", "Stream-Fork-Offset": middle },
})
for (let n = 100; n < 199; n++) producer.append(JSON.stringify({ n, text: ` token ${n}` }))
await producer.close(JSON.stringify({ n: 199, text: " token 199" }))
const [sse, longPoll] = await Promise.all(readers)
await fork.close({ body: JSON.stringify({ n: "fork" }), contentType: "application/json" })
const numbers = (items) => items.map((item) => item.n)
console.log(
  JSON.stringify({
    sse: numbers(sse),
    spaces: sse[7].text,
    longPoll: numbers(longPoll),
    resumed: numbers(await follow("sse", middle)),
    fork: numbers(await follow("long-poll", "-1", `${url}/fork`)),
  }),
)
