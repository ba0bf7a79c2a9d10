// The protocol's own suite against the server whose address the environment gives. `cargo xtask conformance` runs it.
//
// With a token the suite is moved below the names that the token reaches, and each request is made with another owner's token
// first, which has to be refused and must not be told anything of the stream.
import { expect } from "vitest"
import { runConformanceTests } from "@durable-streams/server-conformance-tests"

const env = process.env
const baseUrl = env.EVERLOG_CONFORMANCE_URL
if (!baseUrl) throw new Error("EVERLOG_CONFORMANCE_URL is not set: run `cargo xtask conformance`")

const STREAMS = "/v1/stream/"

/** `fetch` for whoever has a token for all below `scope`, watched over with the token of somebody else. */
function scoped(fetch, { scope, token, foreign }) {
  const below = STREAMS + scope + "/"
  const moved = (path) => (path.startsWith(STREAMS) ? below + path.slice(STREAMS.length) : path)
  const withToken = (headers, bearer) => {
    const all = new Headers(headers)
    const source = all.get("stream-forked-from")
    if (source !== null) all.set("stream-forked-from", moved(source))
    all.set("authorization", `Bearer ${bearer}`)
    return all
  }
  return async (input, init = {}) => {
    if (input instanceof Request) throw new Error("the suite is expected to name its requests by address")
    const url = new URL(input)
    url.pathname = moved(url.pathname)
    if (init.method !== "OPTIONS") {
      const refused = await fetch(url, { ...init, headers: withToken(init.headers, foreign) })
      expect(refused.status, `${init.method ?? "GET"} ${url} with another owner's token`).toBe(403)
      expect(refused.headers.get("stream-next-offset")).toBeNull()
      await refused.arrayBuffer()
    }
    const answer = await fetch(url, { ...init, headers: withToken(init.headers, token) })
    const location = answer.headers.get("location")
    if (location === null) return answer
    const headers = new Headers(answer.headers)
    headers.set("location", location.replace(below, STREAMS))
    return new Response(answer.body, { status: answer.status, statusText: answer.statusText, headers })
  }
}

if (env.EVERLOG_CONFORMANCE_TOKEN) {
  globalThis.fetch = scoped(globalThis.fetch, {
    scope: env.EVERLOG_CONFORMANCE_SCOPE,
    token: env.EVERLOG_CONFORMANCE_TOKEN,
    foreign: env.EVERLOG_CONFORMANCE_FOREIGN_TOKEN,
  })
}

runConformanceTests({ baseUrl, longPollTimeoutMs: Number(env.EVERLOG_CONFORMANCE_LONG_POLL_MS) })
