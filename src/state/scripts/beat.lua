-- Says that this edge is there, and what the others have to tell.
-- KEYS: the edges, the ejections, the cache's generation. ARGV: this edge, after how many
-- milliseconds an edge is gone.
-- Answers: how many edges there are, the generation, then for each ejection the server, the
-- milliseconds left of it, and the edge that decided it.
local time = redis.call('TIME')
local now = math.floor(time[1] * 1000 + time[2] / 1000)
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - 10 * ARGV[2]))
redis.call('EXPIRE', KEYS[1], 86400)
local there = redis.call('ZCOUNT', KEYS[1], string.format('%.0f', now - ARGV[2]), '+inf')
local answer = { tostring(there), redis.call('GET', KEYS[3]) or '0' }
local ejected = redis.call('HGETALL', KEYS[2])
for n = 1, #ejected, 2 do
  local ends, by = string.match(ejected[n + 1], '^(%d+) (.*)$')
  local left = tonumber(ends) - now
  if left > 0 then
    table.insert(answer, ejected[n])
    table.insert(answer, string.format('%.0f', left))
    table.insert(answer, by)
  else
    redis.call('HDEL', KEYS[2], ejected[n])
  end
end
return answer
