-- Reads what a leader must know of all generators, and renews the TTL of everything.
--
-- KEYS  the run, its commands, the parts of each shard.
-- ARGV  leader or '', TTL in ms.
-- Returns a reason why the process may not lead (lib.lua) or
--   {'ok', number of the last command that is here or that a generator has, start or nil, verdict or nil, {host, heartbeat, status, finished, lost} of each shard}
local run = KEYS[1]
local refused = not_leading(run, ARGV[1])
if refused then return refused end
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[2]) end
local shards = {}
for shard = 0, #KEYS - 3 do
  local names = {}
  for n, name in ipairs({'host', 'heartbeat', 'status', 'finished', 'lost'}) do names[n] = name .. ':' .. shard end
  shards[shard + 1] = redis.call('HMGET', run, unpack(names))
end
local start, verdict = unpack(redis.call('HMGET', run, 'start', 'verdict'))
local command = last_number(KEYS[2])
for shard = 0, #KEYS - 3 do
  command = math.max(command, tonumber(redis.call('HGET', run, 'command:' .. shard) or '0'))
end
return {'ok', command, start, verdict, shards}
