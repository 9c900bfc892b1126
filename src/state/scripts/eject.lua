-- Tells the other edges of an ejection.
-- KEYS: the ejections. ARGV: this edge, the server, for how many milliseconds.
local time = redis.call('TIME')
local ends = time[1] * 1000 + time[2] / 1000 + ARGV[3]
redis.call('HSET', KEYS[1], ARGV[2], string.format('%.0f', ends) .. ' ' .. ARGV[1])
redis.call('PEXPIRE', KEYS[1], 86400000)
return 1
