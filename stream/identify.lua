-- Identifiers of one site -> profile ids; profiles that turn out to be one person are merged. KEYS[1] = {s:SITE}:id
-- ARGV[1] = msgpack [ttl_ms, max_ids, [[type, limit, window_ms], ...], [route_ttl_ms, max_routed], [[at_ms, seen_ms,
--   message id, new profile id, [[type index from 0, key part], ...], [NAME:PART, ...]], ...], restore, owner]
--   types: strongest first; limit 0 = none, window 0 = for ever. Identifiers of an item: strongest first.
--   at_ms: when the event was received; seen_ms: when it happened; new: profile id if nobody is known.
--   NAME:PART: what names the purchase that the event is a part of, what is most telling first.
--   restore: false, or [[[winner, loser, rule, message id, at_ms], ...], run, whether that is all]: see below; run false:
--   only these merges.
--   owner: [partition of events, epoch] of who asks; none with restore.
-- Keys: KEYS[1]:TYPE:PART -> profile id; {s:SITE}:ids:PID hash of TYPE:PART -> when it was linked, and first_seen_ms,
--   routed_user; {s:SITE}:k:NAME:PART hash of `to` -> profile id, and the other profiles whose events it has led there;
--   {s:SITE}:to:LOSER -> winner; {s:SITE}:merges list of merges that are not yet in Kafka; {s:SITE}:run -> run id of the
--   server that holds all that there is of the site; {s:SITE}:epochs hash of partition -> the latest epoch that asked.
-- Rules: the profile of the strongest identifier that is known is the event's. Weaker ones that nobody has are linked to
-- it; the profile that a weaker one has is merged with it. Where the limits of a type or the cap forbid that, the weaker
-- identifier gives way: it stays whose it was, and the event is the stronger one's. So the second user of a browser gets
-- a profile of their own. Over the cap the anonymous ids that were linked first are let go. Of two profiles the one first seen earlier stays, at a tie the smaller id.
-- Purchases: who was the first to carry a NAME:PART gets the event, but no identifier is linked by it, and not where the
-- two have users who differ, nor from more than max_routed others.
-- Restore: what a server lost with its last second is taken from the log (stream/recovery.py). An item ends with the
-- profile that the log says: it gets what nobody has of the item's identifiers. What somebody has stays as it is: the
-- event that linked it otherwise is not in the log, and comes again. Merges are made as the log says, whatever the limits.
-- Where somebody else was the first to carry the purchase, the log says nothing of the event's own profile.
-- Returns msgpack [[[profile id, links made, identifiers dropped], ...], [[index of the item, loser, winner, rule], ...]];
-- [run id] and nothing done when the server was restarted and the site has not been restored since; [epoch] and nothing
-- done when a later owner of the partition has asked: what it has decided must not be linked a second time, for an unmerge
-- may have come between.
local a = cmsgpack.unpack(ARGV[1])
local restore = a[6]
redis.call('EXISTS', KEYS[1] .. ':none') -- refused here, before any write, while the slot moves to another node
local ttl, max_ids, types, route_ttl, max_routed = a[1], a[2], a[3], a[4][1], a[4][2]
local site = KEYS[1]:sub(1, -4)
local info = redis.pcall('INFO', 'server')
local run = type(info) == 'string' and info:match('run_id:(%w+)') or ''
local whole = redis.call('GET', site .. ':run') == run
if not restore and not whole then return cmsgpack.pack({run}) end
if restore and restore[2] and (whole or restore[2] ~= run) then return cmsgpack.pack({{}, {}}) end
if a[7] then
  local last = tonumber(redis.call('HGET', site .. ':epochs', a[7][1]) or 0)
  if last > a[7][2] then return cmsgpack.pack({last}) end
  if last < a[7][2] then
    redis.call('HSET', site .. ':epochs', a[7][1], string.format('%.0f', a[7][2]))
    redis.call('PEXPIRE', site .. ':epochs', ttl)
  end
end
local FIRST, ROUTED_USER = 'first_seen_ms', 'routed_user'
local int = function(n) return string.format('%.0f', n) end
local type_of = {}
for _, t in ipairs(types) do type_of[t[1]] = t end

local function ids_of(profile)
  local flat, ids = redis.call('HGETALL', site .. ':ids:' .. profile), {}
  local first = math.huge
  for i = 1, #flat, 2 do
    if flat[i] == FIRST then first = tonumber(flat[i + 1])
    elseif flat[i] ~= ROUTED_USER then ids[flat[i]] = tonumber(flat[i + 1]) end
  end
  return ids, first
end

-- Why identifiers (field -> linked at) can't be one profile's: 'limit', or how many are over the cap, or nil when they can.
-- `only`: types whose limits count, or nil for all. Of a type that nothing is added to a profile may have more than its
-- limit: that was another one when they were linked.
local function refused(one, other, at, only)
  local n, total = {}, 0
  for _, ids in ipairs({one, other}) do
    for field, since in pairs(ids) do
      local t = type_of[field:match('^[^:]*')]
      total = total + 1
      if t and (not only or only[t[1]]) and (t[3] == 0 or at - since < t[3]) then
        n[t[1]] = (n[t[1]] or 0) + 1
        if t[2] > 0 and n[t[1]] > t[2] then return 'limit' end
      end
    end
  end
  if total > max_ids then return total - max_ids end
end

local function link(profile, field, at)
  redis.call('SET', KEYS[1] .. ':' .. field, profile, 'PX', ttl)
  redis.call('HSET', site .. ':ids:' .. profile, field, int(at))
end

local own = {} -- fields of the item under way

-- Over the cap the anonymous ids that were linked first are let go: `over` of those of these profiles, [[profile, ids],
-- ...], but none that the event came with. Whether there are so many; if not, nothing is done.
local function let_go(over, profiles)
  local known = {}
  for _, p in ipairs(profiles) do
    for field, since in pairs(p[2]) do
      if field:sub(1, 13) == 'anonymous_id:' and not own[field] then known[#known + 1] = {since, field, p[1], p[2]} end
    end
  end
  if #known < over then return false end
  table.sort(known, function(x, y) return x[1] < y[1] or (x[1] == y[1] and x[2] < y[2]) end)
  for i = 1, over do
    local field, profile = known[i][2], known[i][3]
    if redis.call('GET', KEYS[1] .. ':' .. field) == profile then redis.call('DEL', KEYS[1] .. ':' .. field) end
    redis.call('HDEL', site .. ':ids:' .. profile, field)
    known[i][4][field] = nil
  end
  return true
end

-- Link new identifiers to a profile that has `have`; whether the limits let them.
local function join(profile, have, fields, at)
  local new, types_ = {}, {}
  for _, field in ipairs(fields) do
    new[field] = at
    types_[field:match('^[^:]*')] = true
  end
  local why = refused(have, new, at, types_)
  if why == 'limit' or (why and not let_go(why, {{profile, have}})) then return false end
  for _, field in ipairs(fields) do link(profile, field, at) end
  return true
end

-- `moved`: identifiers of the loser. `to`: the profile that it is said to have become, from which `winner` follows.
local function make(winner, loser, to, moved, first, rule, message_id, at)
  for field, since in pairs(moved) do
    if redis.call('GET', KEYS[1] .. ':' .. field) == loser then link(winner, field, since) end
  end
  if first < math.huge then redis.call('HSET', site .. ':ids:' .. winner, FIRST, int(first)) end
  local user = redis.call('HGET', site .. ':ids:' .. loser, ROUTED_USER)
  if user then redis.call('HSETNX', site .. ':ids:' .. winner, ROUTED_USER, user) end
  redis.call('DEL', site .. ':ids:' .. loser)
  redis.call('SET', site .. ':to:' .. loser, to, 'PX', ttl)
  redis.call('RPUSH', site .. ':merges', cmsgpack.pack({to, loser, rule, message_id, at}))
end

-- Make two profiles one: winner and loser, or nil where the limits forbid it.
local function merge(one, other, rule, item)
  local ids1, first1 = ids_of(one)
  local ids2, first2 = ids_of(other)
  local why = refused(ids1, ids2, item[1])
  if why == 'limit' or (why and not let_go(why, {{one, ids1}, {other, ids2}})) then return nil end
  local winner, loser, moved = one, other, ids2
  if first2 < first1 or (first2 == first1 and other < one) then winner, loser, moved = other, one, ids1 end
  make(winner, loser, winner, moved, math.min(first1, first2), rule, item[3], item[1])
  return winner, loser
end

-- The profile that one has become.
local function follow(profile)
  while true do
    local to = redis.call('GET', site .. ':to:' .. profile)
    if not to then return profile end
    profile = to
  end
end

-- The id of a new profile: `new`, or one made of it where that has been somebody's already (its identifier was let go).
local function mint(new)
  while redis.call('EXISTS', site .. ':ids:' .. new, site .. ':to:' .. new) > 0 do
    local h = redis.sha1hex(new)
    new = h:sub(1, 8) .. '-' .. h:sub(9, 12) .. '-5' .. h:sub(14, 16) .. '-a' .. h:sub(18, 20) .. '-' .. h:sub(21, 32)
  end
  return new
end

-- The user of a profile, or the one whose purchases it got.
local function user_of(profile)
  local flat, user = redis.call('HGETALL', site .. ':ids:' .. profile), nil
  for i = 1, #flat, 2 do
    if flat[i]:sub(1, 8) == 'user_id:' then return flat[i]:sub(9) end
    if flat[i] == ROUTED_USER then user = flat[i + 1] end
  end
  return user
end

-- The profile that gets an event of `own`, which is a part of these purchases.
local function routed(own, names)
  local to
  for _, name in ipairs(names) do
    local key = site .. ':k:' .. name
    local first = not to and redis.call('HGET', key, 'to')
    first = first and follow(first)
    if first and first ~= own and redis.call('EXISTS', site .. ':ids:' .. first) == 1
        and (redis.call('HEXISTS', key, own) == 1 or redis.call('HLEN', key) <= max_routed) then
      local user, firsts = user_of(own), user_of(first)
      if not user or not firsts or user == firsts then
        to = first
        redis.call('HSET', key, own, 1)
        if user and not firsts then redis.call('HSET', site .. ':ids:' .. first, ROUTED_USER, user) end
      end
    elseif first == own then
      to = own
    end
  end
  for _, name in ipairs(names) do
    local key = site .. ':k:' .. name
    local first = redis.call('HGET', key, 'to')
    if not first or redis.call('EXISTS', site .. ':ids:' .. follow(first)) == 0 then
      redis.call('DEL', key)
      redis.call('HSET', key, 'to', to or own)
    end
    redis.call('PEXPIRE', key, route_ttl)
  end
  return to or own
end

local out, merges = {}, {}

-- The profile of an item's identifiers; links made, identifiers dropped.
local function resolve(i, item, new)
  local at, ids = item[1], item[5]
  local profile, waiting, links, dropped = nil, {}, 0, 0
  local strongest = types[ids[1][1] + 1][1]
  for _, id in ipairs(ids) do
    local type = types[id[1] + 1][1]
    local field = type .. ':' .. id[2]
    local found = redis.call('GETEX', KEYS[1] .. ':' .. field, 'PX', ttl)
    if not found and not profile then
      waiting[#waiting + 1] = field
    elseif not found then
      if join(profile, ids_of(profile), {field}, at) then links = links + 1 else dropped = dropped + 1 end
    elseif not profile then
      if #waiting == 0 then
        profile = found
      elseif join(found, ids_of(found), waiting, at) then
        profile, links = found, links + #waiting
      else
        dropped = dropped + 1
      end
    elseif found ~= profile then
      local winner, loser = merge(profile, found, strongest .. '+' .. type, item)
      if winner then
        profile, links = winner, links + 1
        merges[#merges + 1] = {i - 1, loser, winner, strongest .. '+' .. type}
      else
        dropped = dropped + 1
      end
    end
  end
  if not profile then
    profile = mint(new)
    redis.call('HSET', site .. ':ids:' .. profile, FIRST, int(item[2]))
    local have = {}
    for _, field in ipairs(waiting) do -- the strongest first, as far as the limits let them
      if refused(have, {[field] = at}, at) then
        dropped = dropped + 1
      else
        have[field] = at
        link(profile, field, at)
      end
    end
  end
  redis.call('PEXPIRE', site .. ':ids:' .. profile, ttl)
  return profile, links, dropped
end

local function begin(item)
  own = {}
  for _, id in ipairs(item[5]) do own[types[id[1] + 1][1] .. ':' .. id[2]] = true end
end

local function restore_item(i, item)
  begin(item)
  local profile, led = follow(item[7]), false
  for _, name in ipairs(item[6]) do
    local key = site .. ':k:' .. name
    if redis.call('HSETNX', key, 'to', profile) == 1 then redis.call('PEXPIRE', key, route_ttl) else led = true end
  end
  if led then return resolve(i, item, item[4]) end
  if redis.call('HSETNX', site .. ':ids:' .. profile, FIRST, int(item[2])) == 1 then
    redis.call('PEXPIRE', site .. ':ids:' .. profile, ttl)
  end
  for _, id in ipairs(item[5]) do
    local field = types[id[1] + 1][1] .. ':' .. id[2]
    if redis.call('EXISTS', KEYS[1] .. ':' .. field) == 0 then join(profile, ids_of(profile), {field}, item[1]) end
  end
end

if restore then
  for _, m in ipairs(restore[1]) do
    local to, loser = m[1], m[2]
    local winner = follow(to)
    if winner ~= loser and redis.call('EXISTS', site .. ':to:' .. loser) == 0 then
      local _, first1 = ids_of(winner)
      local moved, first2 = ids_of(loser)
      make(winner, loser, to, moved, math.min(first1, first2), m[3], m[4], m[5])
      redis.call('PEXPIRE', site .. ':ids:' .. winner, ttl)
    end
  end
  for i, item in ipairs(a[5]) do restore_item(i, item) end
  if restore[3] then redis.call('SET', site .. ':run', run) end
  return cmsgpack.pack({{}, {}})
end

for i, item in ipairs(a[5]) do
  begin(item)
  local profile, links, dropped = resolve(i, item, item[4])
  if #item[6] > 0 then profile = routed(profile, item[6]) end
  out[i] = {profile, links, dropped}
end
return cmsgpack.pack({out, merges})
