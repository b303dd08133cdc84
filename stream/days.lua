-- Day buckets of counters of one partition. KEYS[1] = {pN}:head ; ARGV[1] = msgpack [[SITE:F:d:B, ...], whole]
-- Returns msgpack, of each bucket: [field, count, ...] where `whole`, else its sum or false.
local a = cmsgpack.unpack(ARGV[1])
local tag, found = KEYS[1]:sub(1, -6), {}
for i, name in ipairs(a[1]) do
  local bucket = tag .. ':c:' .. name
  if a[2] then found[i] = redis.call('HGETALL', bucket) else found[i] = redis.call('HGET', bucket, 'sum') end
end
return cmsgpack.pack(found)
