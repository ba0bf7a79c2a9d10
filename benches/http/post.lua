-- Each request appends 256 incompressible bytes to one of the streams, chosen at random.
math.randomseed(os.time())
local streams = tonumber(os.getenv("STREAMS"))
local bytes = {}
for n = 1, 256 do bytes[n] = string.char(math.random(0, 255)) end
wrk.method = "POST"
wrk.body = table.concat(bytes)
wrk.headers["Content-Type"] = "application/octet-stream"

request = function()
  return wrk.format(nil, "/v1/stream/bench/" .. math.random(0, streams - 1))
end

-- One line for the script that started it.
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format("RESULT %d %d %d %d\n", summary.requests * 1e6 / summary.duration, latency:percentile(50),
    latency:percentile(99), errors.connect + errors.read + errors.write + errors.timeout + errors.status))
end
