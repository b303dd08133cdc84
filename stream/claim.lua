-- Take a partition over. KEYS[1] = {tag}:head
-- ARGV[1] = msgpack [first]  first: offset to begin at when the head has none yet, or false = only ask
-- Returns msgpack: {epoch, seq, next} ; next = -1 when there is none and `first` is false (nothing is changed then).
-- The epoch is max(now in us, epoch + 1): a counter alone could be given twice after Redis lost its last second.
local first = cmsgpack.unpack(ARGV[1])[1]
local head = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'next')
local next = head[3]
if not next then
  if not first then return cmsgpack.pack({0, 0, -1}) end
  next = string.format('%.0f', first)
end
local t = redis.call('TIME')
local epoch = math.max(t[1] * 1000000 + t[2], (tonumber(head[1]) or 0) + 1)
local seq = tonumber(head[2]) or 0
redis.call('HSET', KEYS[1], 'epoch', string.format('%.0f', epoch), 'seq', string.format('%.0f', seq), 'next', next)
return cmsgpack.pack({epoch, seq, tonumber(next)})
