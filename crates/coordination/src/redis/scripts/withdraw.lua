-- Takes back that a generator is ready, unless the run has started meanwhile.
--
-- KEYS  the run.
-- ARGV  shard, token.
-- Returns a refusal (lib.lua), {'start', Redis' time in us}, or {'ok'}.
local run, shard = KEYS[1], ARGV[1]
local refused = refusal(run, shard, ARGV[2])
if refused then return refused end
local start = redis.call('HGET', run, 'start')
if start then return {'start', start} end
redis.call('HDEL', run, 'rtt:' .. shard)
return {'ok'}
