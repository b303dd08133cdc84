-- What processes said of their spools that are long gone. KEYS[1] = {clock}:waits ; ARGV[1] = msgpack [[name, value], ...]
-- Each only while its value is still this one: a process that was frozen may go on, and say it anew.
for _, said in ipairs(cmsgpack.unpack(ARGV[1])) do
  if redis.call('HGET', KEYS[1], said[1]) == said[2] then redis.call('HDEL', KEYS[1], said[1]) end
end
