-- All effects of a chunk of profile-events and the offset after it, or nothing. KEYS[1] = {pN}:head
-- ARGV[1] = msgpack map:
--   epoch, seq, base, next, clock     the head as it must be, and as it becomes
--   src      [[partition, "offset:index"], ...]      last event applied per partition of events
--   writes   [[SITE:PID, {field, value, ...}], ...]  profiles;  ttl: their life in seconds
--   counts   [[site, minute, utc_offset_s, [field, n, ...]], ...]   minute: start of the minute, epoch seconds
--   tiers    [[tier, length_s, ttl_s], ...];  max_fields: a bucket's field beyond these is counted as "KIND|other"
--   gauges   [field, difference, ...]
--   due      [[SITE|PID, ms or false], ...]
--   out      [trigger, ...]                          appended to the outbox
-- Returns 'applied US' (the time it took), or what of the head is not as it must be
local now_us = function() local t = redis.call('TIME'); return t[1] * 1000000 + t[2] end
local began_us = now_us()
local a = cmsgpack.unpack(ARGV[1])
local key = KEYS[1]
local head = redis.call('HMGET', key, 'epoch', 'seq', 'next')
local epoch, seq, next = tonumber(head[1]), tonumber(head[2]), tonumber(head[3])
if epoch ~= a.epoch then return 'epoch' end
if seq ~= a.seq or next ~= a.base then return 'head' end
local tag = key:sub(1, -6)
redis.call('EXISTS', tag .. ':none') -- refused here, before any write, while the slot moves to another node
local int = function(n) return string.format('%.0f', n) end

for _, w in ipairs(a.writes) do
  local profile = tag .. ':v:' .. w[1]
  redis.call('HSET', profile, unpack(w[2]))
  redis.call('EXPIRE', profile, a.ttl)
end

local full, touched = {}, {}
for _, c in ipairs(a.counts) do
  local site, minute, offset, pairs_ = c[1], c[2], c[3], c[4]
  for _, t in ipairs(a.tiers) do
    local length = t[2]
    local bucket = minute - minute % length
    if t[1] == 'd' then bucket = minute - (minute + offset) % length end
    local counter = tag .. ':c:' .. site .. ':' .. t[1] .. ':' .. int(bucket)
    if not touched[counter] then
      touched[counter] = t[3]
      full[counter] = redis.call('HLEN', counter) >= a.max_fields
    end
    for i = 1, #pairs_, 2 do
      local field = pairs_[i]
      if full[counter] and redis.call('HEXISTS', counter, field) == 0 then
        field = field:match('^[^|]*') .. '|other'
      end
      redis.call('HINCRBY', counter, field, int(pairs_[i + 1]))
    end
  end
end
for counter, ttl in pairs(touched) do redis.call('EXPIRE', counter, ttl) end

for i = 1, #a.gauges, 2 do redis.call('HINCRBY', tag .. ':g', a.gauges[i], int(a.gauges[i + 1])) end
for _, d in ipairs(a.due) do
  if d[2] then redis.call('ZADD', tag .. ':due', int(d[2]), d[1]) else redis.call('ZREM', tag .. ':due', d[1]) end
end
for _, s in ipairs(a.src) do redis.call('HSET', tag .. ':src', int(s[1]), s[2]) end
for _, trigger in ipairs(a.out) do redis.call('RPUSH', tag .. ':out', trigger) end
redis.call('HSET', key, 'next', int(a.next), 'seq', int(seq + 1), 'clock_ms', int(a.clock))
return 'applied ' .. int(now_us() - began_us)
