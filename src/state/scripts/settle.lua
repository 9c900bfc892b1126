-- Corrects what was taken of limits.
-- KEYS: a limit each. ARGV: this edge, then for each limit its form, how much there is, and how
-- much more was used; less than nothing is given back.
local MINUTE = 60000000
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
for n = 1, #KEYS do
  local at = 3 * n - 1
  local form, limit, more = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  if form == 'in_flight' then
    if redis.call('HINCRBY', KEYS[n], ARGV[1], more) <= 0 then
      redis.call('HDEL', KEYS[n], ARGV[1])
    end
  else
    local whole = tonumber(redis.call('GET', KEYS[n]) or 0)
    if more > 0 then
      whole = math.max(whole, now)
    end
    whole = whole + more * MINUTE / limit
    if whole > now then
      redis.call('SET', KEYS[n], string.format('%.0f', whole), 'PX', math.ceil((whole - now) / 1000))
    else
      redis.call('DEL', KEYS[n])
    end
  end
end
return #KEYS
