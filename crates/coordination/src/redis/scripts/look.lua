-- Reads what a leader must know of all generators, and renews the TTL of everything.
--
-- KEYS  the run, its commands, the parts of each shard.
-- ARGV  leader or '', TTL in ms.
-- Returns a reason why the process may not lead (lib.lua) or
--   {'ok', number of the last command, start or nil, highest number of a command that a generator has,
--    {host, heartbeat, status, finished, lost} of each shard}
local run = KEYS[1]
local refused = not_leading(run, ARGV[1])
if refused then return refused end
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[2]) end
local shards, known = {}, 0
for shard = 0, #KEYS - 3 do
  local names = {}
  for n, name in ipairs({'host', 'heartbeat', 'status', 'finished', 'lost'}) do names[n] = name .. ':' .. shard end
  shards[shard + 1] = redis.call('HMGET', run, unpack(names))
  known = math.max(known, tonumber(redis.call('HGET', run, 'command:' .. shard) or '0'))
end
return {'ok', last_number(KEYS[2]), redis.call('HGET', run, 'start'), known, shards}
