// A chat with the AI SDK whose answer survives a reload of the page: the transport of the Durable
// Streams project, with threadcast as the server of the streams. It needs no network: the model is a
// fake one.
//
//     threadcast --durable-streams
//     npm install ai@6 @durable-streams/aisdk-transport
//     node ai_sdk_chat.mjs

import { createServer } from "node:http"
import { createDurableChatTransport, toDurableStreamResponse } from "@durable-streams/aisdk-transport"
import { convertToModelMessages, simulateReadableStream, streamText } from "ai"
import { MockLanguageModelV3 } from "ai/test"

const STREAMS = `${process.env.THREADCAST_URL ?? "http://127.0.0.1:8844"}/v1/stream/chat`

// Replace it by a real model, such as openai("gpt-5-mini") of @ai-sdk/openai.
const ANSWER = "Because air scatters blue light more than red light, and so the sky is blue."
const model = new MockLanguageModelV3({
  doStream: async () => ({
    stream: simulateReadableStream({
      chunkDelayInMs: 50,
      chunks: [
        { type: "text-start", id: "1" },
        ...ANSWER.split(/(?<= )/).map((delta) => ({ type: "text-delta", id: "1", delta })),
        { type: "text-end", id: "1" },
        { type: "finish", finishReason: { unified: "stop" }, usage: { inputTokens: {}, outputTokens: {} } },
      ],
    }),
  }),
})

// The application's server. It keeps which stream has the answer of a chat; you may use a database.
const answers = new Map()

// POST /api/chat: the answer goes into a new stream, and the page gets the stream's URL.
async function ask(request) {
  const { id, messages } = await request.json()
  const stream = `${STREAMS}/${crypto.randomUUID()}`
  answers.set(id, stream)
  const result = streamText({ model, messages: await convertToModelMessages(messages) })
  return toDurableStreamResponse({ source: result.toUIMessageStream(), stream: { writeUrl: stream } })
}

// GET /api/chat/ID/stream: a page that was reloaded gets the same URL. Give pages a URL of your own
// server instead if reading needs a token.
function resume(id) {
  const streamUrl = answers.get(id)
  if (!streamUrl) return new Response(null, { status: 204 })
  return Response.json({ streamUrl }, { headers: { Location: streamUrl } })
}

const server = createServer(async (incoming, outgoing) => {
  const [, id] = incoming.url.match(/^\/api\/chat\/(.+)\/stream$/) ?? []
  const request = () => new Request("http://localhost", { method: "POST", body: incoming, duplex: "half" })
  const response = id ? resume(id) : await ask(request())
  outgoing.writeHead(response.status, Object.fromEntries(response.headers))
  outgoing.end(await response.text())
})
await new Promise((listening) => server.listen(0, "127.0.0.1", listening))

// The page. In React: useChat({ id: "weather", transport, resume: true }).
const transport = createDurableChatTransport({ api: `http://127.0.0.1:${server.address().port}/api/chat` })
const chat = { chatId: "weather", trigger: "submit-message" }
const question = { id: "1", role: "user", parts: [{ type: "text", text: "Why is the sky blue?" }] }

// Reads an answer until it ends, or until the page is closed after some tokens.
async function read(chunks, tokens = Infinity) {
  let text = ""
  for await (const chunk of chunks) {
    if (chunk.type === "text-delta") text += chunk.delta
    if (chunk.type === "text-delta" && --tokens === 0) break
  }
  return text
}

console.log("before the reload:", await read(await transport.sendMessages({ ...chat, messages: [question] }), 6))
console.log("after the reload: ", await read(await transport.reconnectToStream(chat)))
server.close()
