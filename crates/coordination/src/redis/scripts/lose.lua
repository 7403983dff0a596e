-- Marks a generator as lost, unless it gave a sign of life. From then on it can append nothing.
--
-- KEYS  the run.
-- ARGV  leader or '', shard, the heartbeat that the caller saw ('' if there was none, '*' for any), reason.
-- Returns a reason why the process may not lead (lib.lua), {'alive'}, {'finished'}, or {'lost', reason}, which an earlier leader
-- may have given.
local run, shard = KEYS[1], ARGV[2]
local refused = not_leading(run, ARGV[1])
if refused then return refused end
local heartbeat, finished, lost =
  unpack(redis.call('HMGET', run, 'heartbeat:' .. shard, 'finished:' .. shard, 'lost:' .. shard))
if lost then return {'lost', lost} end
if finished then return {'finished'} end
if ARGV[3] ~= '*' and (heartbeat or '') ~= ARGV[3] then return {'alive'} end
redis.call('HSET', run, 'lost:' .. shard, ARGV[4])
return {'lost', ARGV[4]}
