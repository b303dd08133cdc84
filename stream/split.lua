-- Identifiers of a profile become another person's: an unmerge. KEYS[1] = {s:SITE}:id
-- ARGV[1] = msgpack [ttl_ms, profile, new profile, [TYPE:PART, ...], at_ms]
-- Only those that the profile still has, or nobody (Redis lost the link: it is made again for who has it then); nothing when there is, or was, a profile of the new id: it has been done.
-- Returns how many identifiers went.
local a = cmsgpack.unpack(ARGV[1])
redis.call('EXISTS', KEYS[1] .. ':none') -- refused here, before any write, while the slot moves to another node
local site = KEYS[1]:sub(1, -4)
local ttl, profile, new, fields, at = a[1], a[2], a[3], a[4], string.format('%.0f', a[5])
if redis.call('EXISTS', site .. ':ids:' .. new, site .. ':to:' .. new) > 0 then return 0 end
while true do
  local to = redis.call('GET', site .. ':to:' .. profile)
  if not to then break end
  profile = to
end
local moved = 0
for _, field in ipairs(fields) do
  local key = KEYS[1] .. ':' .. field
  local owner = redis.call('GET', key)
  if not owner or owner == profile then
    redis.call('SET', key, new, 'PX', ttl)
    redis.call('HDEL', site .. ':ids:' .. profile, field)
    redis.call('HSET', site .. ':ids:' .. new, field, at)
    moved = moved + 1
  end
end
if moved > 0 then
  redis.call('HSET', site .. ':ids:' .. new, 'first_seen_ms', at)
  redis.call('PEXPIRE', site .. ':ids:' .. new, ttl)
end
return moved
