-- Identifiers of one site -> profile ids. KEYS[1] = {s:SITE}:id
-- ARGV[1] = msgpack [ttl_ms, [[anonymous, user, profile if new by anonymous, profile if new by user], ...]]
--   anonymous, user: key parts, or false. Keys: KEYS[1]:anonymous_id:PART, KEYS[1]:user_id:PART -> profile id,
--   KEYS[1]:owner:PROFILE -> the one user part of a profile.
-- Rules (the first identity rule): a known user is their profile, whatever the anonymous id was before. A user seen
-- first takes over the profile of the anonymous id they came with, unless it belongs to another user. From then on the
-- anonymous id means the user. An anonymous id alone is the profile it means, or a new one.
-- Returns msgpack [[profile id, linked (0|1)], ...]
local a = cmsgpack.unpack(ARGV[1])
redis.call('EXISTS', KEYS[1] .. ':none') -- refused here, before any write, while the slot moves to another node
local ttl, out = a[1], {}
local anonymous_key, user_key, owner_key = KEYS[1] .. ':anonymous_id:', KEYS[1] .. ':user_id:', KEYS[1] .. ':owner:'
for i, item in ipairs(a[2]) do
  local anonymous, user = item[1], item[2]
  local before = anonymous and redis.call('GETEX', anonymous_key .. anonymous, 'PX', ttl)
  local profile, linked = before, 0
  if user then
    profile = redis.call('GETEX', user_key .. user, 'PX', ttl)
    if not profile then
      if before and redis.call('EXISTS', owner_key .. before) == 0 then
        profile, linked = before, 1
      else
        profile = item[4]
      end
      redis.call('SET', user_key .. user, profile, 'PX', ttl)
    end
    redis.call('SET', owner_key .. profile, user, 'PX', ttl)
  end
  profile = profile or item[3]
  if anonymous and profile ~= before then
    redis.call('SET', anonymous_key .. anonymous, profile, 'PX', ttl)
    if before then linked = 1 end
  end
  out[i] = {profile, linked}
end
return cmsgpack.pack(out)
