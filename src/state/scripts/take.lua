-- Takes so much of every limit, or nothing of any.
-- KEYS: the edges, then a limit each. ARGV: this edge, after how many milliseconds an edge is
-- gone, then for each limit its form, how much there is, how much is asked for.
-- Answers: -1 and for each limit what is missing of it; or the number of the limit that is short,
-- from 0, and the microseconds to wait.
local MINUTE = 60000000
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- requests in flight: a number for each edge, which counts as long as the edge is there
local function in_flight(key)
  local all, held = redis.call('HGETALL', key), 0
  for n = 1, #all, 2 do
    local seen = redis.call('ZSCORE', KEYS[1], all[n])
    if all[n] == ARGV[1] or (seen and now / 1000 - seen < tonumber(ARGV[2])) then
      held = held + tonumber(all[n + 1])
    else
      redis.call('HDEL', key, all[n])
    end
  end
  return held
end

local after = {}
for n = 2, #KEYS do
  local at = 3 * n - 3
  local form, limit, asked = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  if form == 'in_flight' then
    after[n] = in_flight(KEYS[n]) + asked
    if after[n] > limit then
      return { n - 2, 1000000 }
    end
  else
    -- the moment at which the allowance is whole again (generic cell rate algorithm)
    local whole = math.max(tonumber(redis.call('GET', KEYS[n]) or 0), now)
    after[n] = whole + asked * MINUTE / limit
    if after[n] - now > MINUTE then
      return { n - 2, math.ceil(after[n] - now - MINUTE) }
    end
  end
end
local answer = { -1 }
for n = 2, #KEYS do
  local at = 3 * n - 3
  if ARGV[at] == 'in_flight' then
    redis.call('HINCRBY', KEYS[n], ARGV[1], ARGV[at + 2])
    redis.call('EXPIRE', KEYS[n], 86400)
    answer[n] = after[n]
  else
    local missing = after[n] - now
    if missing > 0 then
      redis.call('SET', KEYS[n], string.format('%.0f', after[n]), 'PX', math.ceil(missing / 1000))
    end
    -- down, or the remainder that is told would be one too few
    answer[n] = math.floor(missing)
  end
end
return answer
