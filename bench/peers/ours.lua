-- The counters of a chunk and the offset after it, or nothing. KEYS[1] = {tag}:head
-- ARGV[1] = msgpack [epoch, seq, base, next, counts]
--   counts: [[minute, [visitor, ...], [n, ...]], ...]   minute: its start, epoch seconds
-- {tag}:TIER:START  hash  visitor -> n
-- A bucket is read and written STEP visitors at a time: a call from Lua costs more than a field does.
local STEP = 1000
local TIERS = {{'m', 60, 172800}, {'h', 3600, 7776000}, {'d', 86400, 63244800}}
local a = cmsgpack.unpack(ARGV[1])
local key = KEYS[1]
local head = redis.call('HMGET', key, 'epoch', 'seq', 'next')
local epoch, seq, next = tonumber(head[1]), tonumber(head[2]), tonumber(head[3])
if epoch ~= a[1] then return 'epoch' end
if seq ~= a[2] or next ~= a[3] then return 'head' end
local tag = key:sub(1, -6)
for _, c in ipairs(a[5]) do
  local minute, visitors, ns = c[1], c[2], c[3]
  for _, t in ipairs(TIERS) do
    local bucket = tag .. ':' .. t[1] .. ':' .. string.format('%.0f', minute - minute % t[2])
    for first = 1, #visitors, STEP do
      local last = math.min(first + STEP - 1, #visitors)
      local before = redis.call('HMGET', bucket, unpack(visitors, first, last))
      local fields = {}
      for i = first, last do
        fields[#fields + 1] = visitors[i]
        fields[#fields + 1] = ns[i] + (tonumber(before[i - first + 1]) or 0)
      end
      redis.call('HSET', bucket, unpack(fields))
    end
    redis.call('EXPIRE', bucket, t[3])
  end
end
redis.call('HSET', key, 'next', string.format('%.0f', a[4]), 'seq', string.format('%.0f', seq + 1))
return 'applied'
