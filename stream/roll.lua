-- A day's counters of a site, as read from all partitions. KEYS[1] = {s:SITE}:r:F:B
-- ARGV[1] = msgpack [sum, ttl_s, [field, count, ...]]
-- Counters only rise, so of two readings the one with the larger sum is the later: whoever writes, however late, never
-- puts an older one in its place. Returns 1 when it was written.
local a = cmsgpack.unpack(ARGV[1])
local known = redis.call('HGET', KEYS[1], 'sum')
if known and tonumber(known) >= a[1] then return 0 end
redis.call('DEL', KEYS[1])
for from = 1, #a[3], 2000 do redis.call('HSET', KEYS[1], unpack(a[3], from, math.min(from + 1999, #a[3]))) end
redis.call('HSET', KEYS[1], 'sum', string.format('%.0f', a[1]))
redis.call('EXPIRE', KEYS[1], a[2])
return 1
