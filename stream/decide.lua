-- Store a chunk's decisions before it is published. KEYS[1] = {eN}:head
-- ARGV[1] = msgpack [epoch, seq, base, decided]
local a = cmsgpack.unpack(ARGV[1])
local head = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'next', 'run')
local epoch, seq, next = tonumber(head[1]), tonumber(head[2]), tonumber(head[3])
if epoch ~= a[1] then return 'epoch' end
if seq ~= a[2] or next ~= a[3] then return 'head' end
-- A server that was restarted may have lost decisions of others that these rest on.
local info = redis.pcall('INFO', 'server')
if (type(info) == 'string' and info:match('run_id:(%w+)') or '') ~= head[4] then return 'run' end
redis.call('SET', KEYS[1]:gsub('head$', 'decided'), a[4])
redis.call('HINCRBY', KEYS[1], 'seq', 1)
return 'applied'
