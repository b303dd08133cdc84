-- All that hop 1 can take from the log has been taken. KEYS[1] = {eN}:head ; ARGV[1] = msgpack [epoch, run, now_ms]
local a = cmsgpack.unpack(ARGV[1])
if tonumber(redis.call('HGET', KEYS[1], 'epoch')) ~= a[1] then return 'epoch' end
local t = redis.call('TIME')
local ahead = math.max(0, t[1] * 1000 + math.floor(t[2] / 1000) - a[3]) -- in this run, as claim.lua finds it
redis.call('HSET', KEYS[1], 'settled', a[2], 'ahead_ms', string.format('%.0f', ahead))
redis.call('HDEL', KEYS[1], 'owes')
return 'applied'
