// The protocol's own suite against the server whose address the environment gives. `cargo xtask conformance` runs it.
import { runConformanceTests } from "@durable-streams/server-conformance-tests"

const baseUrl = process.env.EVERLOG_CONFORMANCE_URL
if (!baseUrl) throw new Error("EVERLOG_CONFORMANCE_URL is not set: run `cargo xtask conformance`")

runConformanceTests({ baseUrl, longPollTimeoutMs: Number(process.env.EVERLOG_CONFORMANCE_LONG_POLL_MS) })
