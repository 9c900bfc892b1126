-- Replaces a value that nobody has replaced meanwhile. Values begin with the number of their version.
-- KEYS: the value. ARGV: the version that is to be there, 0 for none; the new value; how many
-- milliseconds it lives.
local there = redis.call('GET', KEYS[1])
local version = there and string.match(there, '^%d+') or '0'
if version ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
