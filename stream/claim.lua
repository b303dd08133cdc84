-- Take a partition over. KEYS[1] = {tag}:head
-- ARGV[1] = msgpack [first, least, now_ms]  first: offset to begin at when the head has none yet, or false = only ask;
-- least: an epoch that was given before, though this server may have lost it; now_ms: by the worker's clock
-- Returns msgpack: {epoch, seq, next, run, settled} ; next = -1 when there is none and `first` is false (nothing is
-- changed then). run: of the server, '' when it does not tell. settled: nothing that the server may have lost when its
-- run began is still to be taken from the log (stream/recovery.py; of hop 1 only).
-- The epoch is max(now in us, epoch + 1, least + 1): a counter alone could be given twice after Redis lost its last second.
local first, least, now_ms = unpack(cmsgpack.unpack(ARGV[1]))
local key = KEYS[1]
local head = redis.call('HMGET', key, 'epoch', 'seq', 'next', 'run', 'settled', 'at_ms', 'back_ms', 'ahead_ms')
local next = head[3]
if not next then
  if not first then return cmsgpack.pack({0, 0, -1, '', false}) end
  next = string.format('%.0f', first)
end
local info = redis.pcall('INFO', 'server')
local run = type(info) == 'string' and info:match('run_id:(%w+)') or ''
if head[4] ~= run then
  -- What was written after at_ms may be gone. Where the run before this one was not settled: after its back_ms.
  local owes = key:sub(2, 2) == 'e' and head[4] and head[5] ~= head[4] and head[7]
  redis.call('HSET', key, 'run', run, 'back_ms', owes or head[6] or '0')
  if owes then redis.call('HSET', key, 'owes', '1') end
end
local t = redis.call('TIME')
if key:sub(2, 2) == 'e' then
  -- By how much this clock, which at_ms is by, is ahead of that of the worker, which the log is by.
  local ahead = math.max(0, t[1] * 1000 + math.floor(t[2] / 1000) - now_ms, tonumber(head[8]) or 0)
  redis.call('HSET', key, 'ahead_ms', string.format('%.0f', ahead))
end
local epoch = math.max(t[1] * 1000000 + t[2], (tonumber(head[1]) or 0) + 1, least + 1)
local seq = tonumber(head[2]) or 0
redis.call('HSET', key, 'epoch', string.format('%.0f', epoch), 'seq', string.format('%.0f', seq), 'next', next)
return cmsgpack.pack({epoch, seq, tonumber(next), run, head[5] == run})
