-- All effects of a chunk of profile-events and the offset after it, or nothing. KEYS[1] = {pN}:head
-- ARGV[1] = msgpack map:
--   epoch, seq, base, next, clock     the head as it must be, and as it becomes
--   src      [[partition, "offset:index"], ...]      last event applied per partition of events
--   merged   [SITE:PID, ...]                         profiles that lose all they had, before `writes`
--   writes   [[SITE:PID, {field, value, ...}], ...]  profiles;  ttl: their life in seconds
--   counts   [[site, family, [bucket of each tier, or false], [field, ...], [n, ...]], ...]
--   tiers    [[tier, ttl_s], ...];  caps: family -> [most fields of a bucket of each tier]; open: kind -> true where a
--            new field beyond the cap is counted as "KIND|"
--   gone     [[SITE, id], ...]     who is no visitor any more: of each of `channels`; before `visits`
--   visits   [[SITE:CH, [minute, id, ...]], ...];  visit_days: [[SITE:CH:DAY, [id, ...]], ...]
--   visitors {most, from minute, ttl_s}   how many and how old the exact visitors of a channel may be
--   models   ["SITE|SIGNAL", JSON, ...]              parameters that are new
--   ranks    [[SITE, least or false, [rank, id, ...], [id, ...]], ...]  places in the ranking; the last have none;
--            ranked [SITE, rules, ...]
--   sums     [[SITE, [field, log2, ...]], ...]       added to the sums whose log2 is kept
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
-- keys.MAX_COUNT: exact in a double, and written as an integer. A larger count would be written as 1e+17, which is none.
local MOST = 9007199254740991

for _, p in ipairs(a.merged) do redis.call('DEL', tag .. ':v:' .. p) end
for _, w in ipairs(a.writes) do
  local profile = tag .. ':v:' .. w[1]
  redis.call('HSET', profile, unpack(w[2]))
  redis.call('EXPIRE', profile, a.ttl)
end

-- Counters: all increments of a bucket first, so that it is read once and written once.
local buckets, order = {}, {}
for _, c in ipairs(a.counts) do
  for i, t in ipairs(a.tiers) do
    local name = c[3][i] and tag .. ':c:' .. c[1] .. ':' .. c[2] .. ':' .. t[1] .. ':' .. int(c[3][i])
    local b = buckets[name]
    if not name then -- older than any window
    elseif not b then -- Most chunks are of one minute: the same lists serve all tiers.
      b = {name = name, ttl = t[2], cap = a.caps[c[2]][i], fields = c[4], n = c[5]}
      buckets[name] = b
      order[#order + 1] = b
    else
      if not b.at then
        local names, n, at = {}, {}, {}
        for k, field in ipairs(b.fields) do names[k], n[k], at[field] = field, b.n[k], k end
        b.fields, b.n, b.at = names, n, at
      end
      local names, n, at, more = b.fields, b.n, b.at, c[5]
      for j, field in ipairs(c[4]) do
        local k = at[field]
        if k then
          n[k] = n[k] + more[j]
        else
          k = #names + 1
          names[k], n[k], at[field] = field, more[j], k
        end
      end
    end
  end
end
for _, b in ipairs(order) do
  local names, n, unnamed = b.fields, b.n, {}
  local length = redis.call('HLEN', b.name)
  local room, all = b.cap - length, nil
  if #names > 50 and #names * 4 >= length then -- One look at all of it is cheaper than one for each field.
    all = {}
    local flat = redis.call('HGETALL', b.name)
    for k = 1, #flat, 2 do all[flat[k]] = flat[k + 1] end
  end
  for from = 1, #names, 1000 do
    local to = math.min(from + 999, #names)
    local values, set, size = not all and redis.call('HMGET', b.name, unpack(names, from, to)), {}, 0
    for k = from, to do
      local field = names[k]
      local value = all and all[field] or values and values[k - from + 1]
      local kind = not value and room <= 0 and field:match('^([^|]*)|.')
      if kind and a.open[kind] then
        unnamed[kind] = (unnamed[kind] or 0) + n[k]
      else
        if not value then room = room - 1 end
        local count = (value or 0) + n[k]
        set[size + 1], set[size + 2] = field, count < MOST and count or MOST
        size = size + 2
      end
    end
    if size > 0 then redis.call('HSET', b.name, unpack(set)) end
  end
  for kind, more in pairs(unnamed) do
    local count = (tonumber(redis.call('HGET', b.name, kind .. '|') or nil) or 0) + more
    redis.call('HSET', b.name, kind .. '|', count < MOST and count or MOST)
  end
  if length == 0 then redis.call('EXPIRE', b.name, b.ttl) end
end

-- Visitors: the latest of each channel exactly, all of each day as a HyperLogLog.
for _, g in ipairs(a.gone) do
  for _, channel in ipairs(a.channels) do redis.call('ZREM', tag .. ':u:' .. g[1] .. ':' .. channel, g[2]) end
end
for _, v in ipairs(a.visits) do
  local zset, pairs_ = tag .. ':u:' .. v[1], v[2]
  for from = 1, #pairs_, 2000 do
    redis.call('ZADD', zset, 'GT', unpack(pairs_, from, math.min(from + 1999, #pairs_)))
  end
  redis.call('ZREMRANGEBYSCORE', zset, '-inf', '(' .. int(a.visitors[2]))
  local over = redis.call('ZCARD', zset) - a.visitors[1]
  if over > 0 then
    local last = redis.call('ZRANGE', zset, over - 1, over - 1, 'WITHSCORES')[2]
    if tonumber(last) > tonumber(redis.call('HGET', tag .. ':u', v[1]) or -1) then
      redis.call('HSET', tag .. ':u', v[1], last)
      redis.call('EXPIRE', tag .. ':u', a.visitors[3])
    end
    redis.call('ZREMRANGEBYRANK', zset, 0, over - 1)
  end
  redis.call('EXPIRE', zset, a.visitors[3])
end
for _, d in ipairs(a.visit_days) do
  local hll, ids = tag .. ':ud:' .. d[1], d[2]
  for from = 1, #ids, 2000 do redis.call('PFADD', hll, unpack(ids, from, math.min(from + 1999, #ids))) end
  redis.call('EXPIRE', hll, a.visitors[3])
end

for from = 1, #a.models, 2000 do
  redis.call('HSET', tag .. ':models', unpack(a.models, from, math.min(from + 1999, #a.models)))
end
for _, r in ipairs(a.ranks) do
  local zset, places, none = tag .. ':rank:' .. r[1], r[3], r[4]
  for from = 1, #places, 2000 do redis.call('ZADD', zset, unpack(places, from, math.min(from + 1999, #places))) end
  for from = 1, #none, 2000 do redis.call('ZREM', zset, unpack(none, from, math.min(from + 1999, #none))) end
  if r[2] then redis.call('ZREMRANGEBYSCORE', zset, '-inf', '(' .. string.format('%.17g', r[2])) end
  redis.call('EXPIRE', zset, a.ttl)
end
for from = 1, #a.ranked, 2000 do
  redis.call('HSET', tag .. ':rank', unpack(a.ranked, from, math.min(from + 1999, #a.ranked)))
end
for _, s in ipairs(a.sums) do
  local hash, pairs_ = tag .. ':sum:' .. s[1], s[2]
  for i = 1, #pairs_, 2 do
    local x, y = tonumber(redis.call('HGET', hash, pairs_[i]) or nil), pairs_[i + 1]
    if x then y = math.max(x, y) + math.log(1 + 2 ^ -math.abs(x - y)) / math.log(2) end
    redis.call('HSET', hash, pairs_[i], string.format('%.17g', y))
  end
end

for i = 1, #a.gauges, 2 do redis.call('HINCRBY', tag .. ':g', a.gauges[i], int(a.gauges[i + 1])) end
for _, d in ipairs(a.due) do
  if d[2] then redis.call('ZADD', tag .. ':due', int(d[2]), d[1]) else redis.call('ZREM', tag .. ':due', d[1]) end
end
for _, s in ipairs(a.src) do redis.call('HSET', tag .. ':src', int(s[1]), s[2]) end
for _, trigger in ipairs(a.out) do redis.call('RPUSH', tag .. ':out', trigger) end
local ended_us = now_us()
redis.call('HSET', key, 'next', int(a.next), 'seq', int(seq + 1), 'clock_ms', int(a.clock),
  'at_ms', int(math.floor(ended_us / 1000)))
return 'applied ' .. int(ended_us - began_us)
