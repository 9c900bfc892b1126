-- wrk: posts the body in $BODY, and ends with one line of JSON. With $COUNTED each body is another:
-- the digits of its first `"n": 10000000` count. With $GET nothing is posted.
local file = assert(io.open(os.getenv("BODY")))
wrk.method = "POST"
wrk.body = file:read("*a")
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer not-a-key-but-long-enough"
file:close()

if os.getenv("GET") then
  wrk.method, wrk.body = "GET", nil
end

if os.getenv("COUNTED") then
  local first, last = wrk.body:find('"n": %d%d%d%d%d%d%d%d')
  local head, tail = wrk.body:sub(1, last - 8), wrk.body:sub(last + 1)
  local count = 0
  function request()
    count = count + 1
    return wrk.format(nil, nil, nil, head .. string.format("%08d", 10000000 + count) .. tail)
  end
end

function done(summary, latency)
  local errors = summary.errors
  print(string.format(
    '{"requests":%d,"seconds":%.3f,"p50_us":%d,"p90_us":%d,"p99_us":%d,"errors":%d}',
    summary.requests, summary.duration / 1e6,
    latency:percentile(50), latency:percentile(90), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
