-- Adds what keys have spent in a month, once however often it is sent, and tells all of it.
-- KEYS: the month, this delivery. ARGV: a key and its units, again and again.
if #ARGV > 0 and redis.call('SET', KEYS[2], '1', 'NX', 'EX', 86400) then
  for n = 1, #ARGV, 2 do
    redis.call('HINCRBYFLOAT', KEYS[1], ARGV[n], ARGV[n + 1])
  end
  -- this month and the two before, for who wants to look
  redis.call('EXPIRE', KEYS[1], 100 * 86400)
end
return redis.call('HGETALL', KEYS[1])
