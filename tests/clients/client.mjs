// Applications as their authors would write them with the protocol's own client for JavaScript and its state client.
//
// Each case is one application: it is given the address of a server and asserts what it was told. Where it waits for
// the server to come to harm it prints a line and reads one. Nothing here knows anything of everlog; who starts it does.
import assert from "node:assert/strict"
import { randomBytes } from "node:crypto"
import { readFile, readdir } from "node:fs/promises"
import { createInterface } from "node:readline"
import { DurableStream, FetchError, IdempotentProducer, StreamClosedError, stream } from "@durable-streams/client"
import { MaterializedState, createStateSchema } from "@durable-streams/state"
import { createStreamDB } from "@durable-streams/state/db"

const JSON_TYPE = "application/json"
// A server that is away is back within a second or so.
const backoffOptions = { initialDelay: 20, maxDelay: 200, multiplier: 1.3, maxRetries: Infinity }

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]()

/** Says where the application is, and waits until it may go on. */
async function pause(line) {
  console.log(line)
  assert.equal((await lines.next()).value, "go")
}

/** Everything there is. With `live: false` the client would stop behind the first page. */
async function whole(url, offset) {
  return stream({ url, offset, backoffOptions })
}

/** Creations, appends of all kinds, reads, the end of a stream. */
async function basics(base) {
  const url = `${base}/basics/json`
  const handle = await DurableStream.create({ url, contentType: JSON_TYPE, backoffOptions })
  assert.deepEqual(await (await whole(url)).json(), [])
  await handle.append(JSON.stringify({ n: 0 }))
  const start = (await handle.head()).offset
  // Those after the first one wait for it, and go together.
  await Promise.all([1, 2, 3, 4].map((n) => handle.append(JSON.stringify({ n }))))
  assert.deepEqual(await (await whole(url)).json(), [0, 1, 2, 3, 4].map((n) => ({ n })))
  assert.deepEqual(await (await whole(url, start)).json(), [1, 2, 3, 4].map((n) => ({ n })))

  await handle.append(`[5, 6]`, { seq: "b" })
  await assert.rejects(handle.append(`7`, { seq: "a" }), (e) => e instanceof FetchError && e.status === 409)
  const last = (await (await whole(url)).json()).at(-1)
  assert.deepEqual(last, [5, 6], "an array within the client's own is one message")

  // More than one page.
  const text = "x".repeat(200_000)
  for (let n = 0; n < 12; n++) await handle.append(JSON.stringify({ n, text }))
  assert.equal((await (await whole(url)).json()).length, 6 + 12)

  assert.ok((await DurableStream.create({ url, contentType: JSON_TYPE })).url, "it is there as asked for")
  const other = DurableStream.create({ url, contentType: "text/plain" })
  await assert.rejects(other, (e) => e.status === 409 || e.code === "CONFLICT_EXISTS")

  const { finalOffset } = await handle.close({ body: `"the end"` })
  assert.equal((await handle.head()).offset, finalOffset)
  assert.equal((await handle.head()).streamClosed, true)
  await assert.rejects(handle.close({ body: `"more"` }), (e) => e instanceof StreamClosedError || e.status === 409)
  assert.equal((await handle.close()).finalOffset, finalOffset)
  // A live reader of a closed stream comes to its end by itself.
  for (const live of ["long-poll", "sse"]) {
    const items = []
    const response = await stream({ url, live })
    // `response.closed` would be too early: the last messages are still to come then.
    await new Promise((resolve, reject) => {
      response.closed.catch(reject)
      response.subscribeJson((batch) => {
        items.push(...batch.items)
        if (batch.streamClosed) resolve()
      })
    })
    assert.ok(items.at(-1) === "the end" && items.length === 6 + 12 + 1, `${items.length} messages`)
  }
  await handle.delete()
  assert.equal((await handle.head()).exists, false)
  await assert.rejects(whole(url), (e) => e.status === 404)

  await bytes(base)
}

async function bytes(base) {
  const url = `${base}/basics/bytes`
  const handle = await DurableStream.create({ url, contentType: "application/octet-stream" })
  const chunks = Array.from({ length: 8 }, (_, n) => randomBytes(1 + n * 70_000))
  for (const chunk of chunks) await handle.append(chunk)
  await handle.appendStream(
    (async function* () {
      yield new Uint8Array([1, 2, 3])
      yield new Uint8Array([0, 255])
    })()
  )
  const all = Buffer.concat([...chunks, Buffer.from([1, 2, 3, 0, 255])])
  assert.ok(all.equals(await (await whole(url)).body()))
  // As events they come in base64.
  const seen = []
  const response = await stream({ url, live: "sse", offset: "-1" })
  await new Promise((resolve, reject) => {
    response.closed.then(resolve, reject)
    response.subscribeBytes(({ data }) => {
      seen.push(Buffer.from(data))
      if (Buffer.concat(seen).length === all.length) handle.append("one more").catch(reject)
      if (Buffer.concat(seen).length > all.length) resolve()
    })
  })
  response.cancel()
  assert.ok(Buffer.concat([all, Buffer.from("one more")]).equals(Buffer.concat(seen)))
}

/** Follows a stream until it has so many messages, whatever becomes of its connections; prints each. */
async function tail(base, live, count) {
  const seen = []
  let offset = "-1"
  while (seen.length < Number(count)) {
    const response = await stream({ url: `${base}/tail`, offset, live, backoffOptions })
    let over = false
    await new Promise((resolve) => {
      // The connection broke; what was taken counts, and the next one begins behind it.
      const end = () => resolve((over = true))
      response.closed.then(end, end)
      response.subscribeJson((batch) => {
        // What was under way then comes again.
        if (over) return
        seen.push(...batch.items)
        offset = batch.offset
        for (const { n } of batch.items) console.log(`item ${n}`)
        if (seen.length >= Number(count)) end()
      })
    })
    response.cancel()
  }
}

/** What was not answered is sent again; whatever was answered counts. The producer does not do that by itself. */
async function retrying(...request) {
  for (;;) {
    try {
      const response = await fetch(...request)
      if (response.status !== 503) return response
    } catch {
      // Nothing is known of it: the producer's number says whether it was stored.
    }
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

/** Sends numbered batches, several at once, and closes the stream with a last message. */
async function produce(base, rounds) {
  const url = `${base}/produce`
  const handle = await DurableStream.create({ url, contentType: JSON_TYPE, backoffOptions })
  let failed
  const producer = new IdempotentProducer(handle, "clients", {
    fetch: retrying,
    // Two or three messages a request.
    maxBatchBytes: 16,
    onError: (e) => (failed = e),
  })
  let n = 0
  for (let round = 0; round < Number(rounds); round++) {
    await pause(`round ${round}`)
    for (let i = 0; i < 20; i++) producer.append(JSON.stringify({ n: n++ }))
    await producer.flush()
    assert.equal(failed, undefined)
  }
  await pause(`close ${n}`)
  const { finalOffset } = await producer.close(JSON.stringify({ n: n++ }))
  assert.equal((await handle.head()).offset, finalOffset)

  await fenced(`${url}-taken`)
}

/** Producers with the same id: the first one is told, whether the second one means to take over or does not know. */
async function fenced(url) {
  const handle = await DurableStream.create({ url, contentType: JSON_TYPE, backoffOptions })
  const producer = (opts) => {
    const errors = []
    const made = new IdempotentProducer(handle, "id", { fetch: retrying, onError: (e) => errors.push(e.name), ...opts })
    return { errors, epoch: () => made.epoch, send: (body) => (made.append(body), made.flush().catch(() => {})) }
  }
  const first = producer({ epoch: 3 })
  await first.send("1")
  const unaware = producer({ epoch: 3 })
  await unaware.send("2")
  assert.deepEqual(unaware.errors, ["SequenceGapError"], "it is not taken for a repetition of the first")
  const second = producer({ autoClaim: true })
  await second.send("3")
  assert.equal(second.epoch(), 4)
  await first.send("4")
  assert.deepEqual(first.errors, ["StaleEpochError"])
  assert.deepEqual(await (await whole(url)).json(), [1, 3])
}

/** A file's bytes, of a change's value. */
function content(value) {
  return Buffer.from(value.data, value.encoding === "base64" ? "base64" : "utf-8")
}

/** What a folder holds. */
async function files(folder) {
  const found = new Map()
  for (const name of await readdir(folder)) found.set(name, await readFile(`${folder}/${name}`))
  return found
}

function same(state, expected, how) {
  assert.deepEqual([...state.keys()].sort(), [...expected.keys()].sort(), how)
  for (const [name, bytes] of expected) assert.ok(bytes.equals(content(state.get(name))), `${how}: ${name}`)
}

/** Folds somebody's contacts to what their folder holds, and follows a change. */
async function contacts(base, folder) {
  const url = `${base}/users/alice/contacts`
  const response = await whole(url)
  const state = new MaterializedState()
  state.applyBatch(await response.json())
  same(state.getType("contact"), await files(folder), "folded")

  const any = { "~standard": { version: 1, vendor: "any", validate: (value) => ({ value }) } }
  const schema = createStateSchema({ contacts: { schema: any, type: "contact", primaryKey: "name" } })
  const db = createStreamDB({ streamOptions: { url, contentType: JSON_TYPE, backoffOptions }, state: schema })
  await db.preload()
  const rows = () => new Map(db.collections.contacts.toArray.map((row) => [row.name, row]))
  same(rows(), await files(folder), "as a database")
  const before = db.offset
  await pause("folded")
  while (db.offset === before) await new Promise((resolve) => setTimeout(resolve, 10))
  same(rows(), await files(folder), "after a change")
  db.close()
}

const [name, url, ...args] = process.argv.slice(2)
await { basics, tail, produce, contacts }[name](url, ...args)
// Connections that are still open keep nobody waiting.
process.exit(0)
