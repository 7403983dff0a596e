-- Gives up a shard: before the start it becomes free, after the start it is lost unless it has finished.
--
-- KEYS  the run, its commands, its requests, the parts of each shard.
-- ARGV  shard, token, reason of a loss.
-- Returns a refusal (lib.lua) or {'ok'}.
local run, shard = KEYS[1], ARGV[1]
local refused = refusal(run, shard, ARGV[2])
if refused then return refused end
if redis.call('HEXISTS', run, 'start') == 1 then
  if redis.call('HEXISTS', run, 'finished:' .. shard) == 0 then redis.call('HSET', run, 'lost:' .. shard, ARGV[3]) end
  return {'ok'}
end
redis.call('DEL', KEYS[4 + shard])
for _, name in ipairs({'token', 'host', 'heartbeat', 'seen', 'rtt', 'status', 'command'}) do
  redis.call('HDEL', run, name .. ':' .. shard)
end
local generators = tonumber(redis.call('HGET', run, 'generators'))
for other = 0, generators - 1 do
  if redis.call('HEXISTS', run, 'token:' .. other) == 1 then return {'ok'} end
end
-- The last one: the name is free for another plan.
redis.call('DEL', unpack(KEYS))
return {'ok'}
