-- Makes a generator the leader, if all lower shards are dead.
--
-- KEYS  the run.
-- ARGV  shard, token, reason of the others' loss; then for each lower shard the heartbeat that the caller saw, or ''.
-- Returns a refusal (lib.lua), {'ok'}, {'alive', shard} if a lower shard gave a sign of life or a higher one leads, or {'over'} if the
-- run has not started or has its verdict.
local run, shard = KEYS[1], ARGV[1]
local refused = refusal(run, shard, ARGV[2])
if refused then return refused end
if redis.call('HEXISTS', run, 'start') == 0 or redis.call('HEXISTS', run, 'verdict') == 1 then return {'over'} end
local function of(name, lower) return redis.call('HGET', run, name .. ':' .. lower) end
for lower = 0, tonumber(shard) - 1 do
  if not of('lost', lower) and (of('heartbeat', lower) or '') ~= ARGV[4 + lower] then return {'alive', lower} end
end
local current = redis.call('HGET', run, 'leader')
if current and tonumber(current) > tonumber(shard) then return {'alive', current} end
for lower = 0, tonumber(shard) - 1 do
  if not of('lost', lower) and not of('finished', lower) then redis.call('HSET', run, 'lost:' .. lower, ARGV[3]) end
end
set_leader(run, shard)
return {'ok'}
