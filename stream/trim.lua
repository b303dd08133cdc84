-- Triggers that are in Kafka leave the outbox. KEYS[1] = {pN}:head ; ARGV[1] = msgpack [epoch, seq, count]
local a = cmsgpack.unpack(ARGV[1])
local head = redis.call('HMGET', KEYS[1], 'epoch', 'seq')
local epoch, seq = tonumber(head[1]), tonumber(head[2])
if epoch ~= a[1] then return 'epoch' end
if seq ~= a[2] then return 'head' end
redis.call('LTRIM', KEYS[1]:gsub('head$', 'out'), a[3], -1)
redis.call('HINCRBY', KEYS[1], 'seq', 1)
return 'applied'
