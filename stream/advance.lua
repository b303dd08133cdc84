-- The chunk is in Kafka. KEYS[1] = {eN}:head
-- ARGV[1] = msgpack [epoch, seq, base, next, received_at_ms, [[hour, hashes], ...], seen_ttl_s, rest]
-- rest: decisions on records after `next` that stay, or false
local a = cmsgpack.unpack(ARGV[1])
local key = KEYS[1]
local head = redis.call('HMGET', key, 'epoch', 'seq', 'next')
local epoch, seq, next = tonumber(head[1]), tonumber(head[2]), tonumber(head[3])
if epoch ~= a[1] then return 'epoch' end
if seq ~= a[2] or next ~= a[3] then return 'head' end
local tag = key:sub(1, -6)
redis.call('EXISTS', tag .. ':none') -- refused here, before any write, while the slot moves to another node
for _, hour in ipairs(a[6]) do
  local seen = tag .. ':seen:' .. string.format('%.0f', hour[1])
  redis.call('APPEND', seen, hour[2])
  redis.call('EXPIRE', seen, a[7])
end
if a[8] then redis.call('SET', tag .. ':decided', a[8]) else redis.call('DEL', tag .. ':decided') end
local t = redis.call('TIME')
redis.call('HSET', key, 'next', string.format('%.0f', a[4]), 'received_at_ms', string.format('%.0f', a[5]),
  'seq', string.format('%.0f', seq + 1), 'at_ms', string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000)))
return 'applied'
