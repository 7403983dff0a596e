-- Stores the verdict, and renews the TTL of everything. A process that reads the run from outside does not replace a verdict.
--
-- KEYS  the run, its commands, the parts of each shard.
-- ARGV  leader or '', verdict, TTL in ms.
-- Returns a reason why the process may not lead (lib.lua) or {'ok'}.
local refused = not_leading(KEYS[1], ARGV[1])
if refused then return refused end
if ARGV[1] == '' then
  redis.call('HSETNX', KEYS[1], 'verdict', ARGV[2])
else
  redis.call('HSET', KEYS[1], 'verdict', ARGV[2])
end
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[3]) end
return {'ok'}
