-- All that hop 1 can take from the log has been taken. KEYS[1] = {eN}:head ; ARGV[1] = msgpack [epoch, run]
local a = cmsgpack.unpack(ARGV[1])
if tonumber(redis.call('HGET', KEYS[1], 'epoch')) ~= a[1] then return 'epoch' end
redis.call('HSET', KEYS[1], 'settled', a[2])
redis.call('HDEL', KEYS[1], 'owes')
return 'applied'
