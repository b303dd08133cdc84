-- One process a worker_id. KEYS[1] = {w:ID}:held
-- ARGV[1] = msgpack [run, who, ttl_ms, dead_ms]  run: of the process that asks; who: what people are told of it; ttl_ms:
-- 0 = let go. Whoever has not asked for dead_ms is taken for dead.
-- Returns msgpack [] when it is ours (or free again), else [who, ms since that one asked].
local run, who, ttl, dead = unpack(cmsgpack.unpack(ARGV[1]))
local held = redis.call('HMGET', KEYS[1], 'run', 'who', 'ttl_ms')
local age = (tonumber(held[3]) or 0) - redis.call('PTTL', KEYS[1])
local ours = not held[1] or held[1] == run
if ttl == 0 then
  if ours then redis.call('DEL', KEYS[1]) end
  return cmsgpack.pack({})
end
if not ours and age < dead then return cmsgpack.pack({held[2], age}) end
redis.call('HSET', KEYS[1], 'run', run, 'who', who, 'ttl_ms', ttl)
redis.call('PEXPIRE', KEYS[1], ttl)
return cmsgpack.pack({})
