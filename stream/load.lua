-- Read profiles and due timers. KEYS[1] = {pN}:head ; ARGV[1] = msgpack [[SITE:PID, ...], clock_ms or false, limit]
-- Returns msgpack [[[field, value, ...] per profile], [SITE|PID, ...] with a timer due <= clock_ms, earliest first, at
-- most limit, US (the time it took)]
local now_us = function() local t = redis.call('TIME'); return t[1] * 1000000 + t[2] end
local began_us = now_us()
local a = cmsgpack.unpack(ARGV[1])
local tag = KEYS[1]:sub(1, -6)
local profiles, due = {}, {}
for i, p in ipairs(a[1]) do profiles[i] = redis.call('HGETALL', tag .. ':v:' .. p) end
if a[2] then
  due = redis.call('ZRANGEBYSCORE', tag .. ':due', '-inf', string.format('%.0f', a[2]), 'LIMIT', 0, a[3])
end
return cmsgpack.pack({profiles, due, now_us() - began_us})
