-- Writes a generator's heartbeat and reads what it must know. A heartbeat that is executed after a later one changes nothing.
--
-- KEYS  the run, its commands, the generator's parts.
-- ARGV  shard, token, heartbeat (a number that grows), status, number of the last command that the generator has, TTL in ms,
--       number of shards whose heartbeats to return.
-- Returns a refusal (lib.lua) or
--   {'ok', leader or nil, start or nil, {number, kind, bytes} of each new command, heartbeat or nil of each shard asked for,
--    number of the last message in the generator's parts}
local run, commands, parts = KEYS[1], KEYS[2], KEYS[3]
local shard, heartbeat, status, ttl, others = ARGV[1], ARGV[3], ARGV[4], ARGV[6], tonumber(ARGV[7])
local refused = refusal(run, shard, ARGV[2])
if refused then return refused end
if tonumber(redis.call('HGET', run, 'heartbeat:' .. shard) or '-1') < tonumber(heartbeat) then
  -- A later leader does not use the number of a command again that a generator has, also if Redis has lost the command.
  redis.call('HSET', run, 'heartbeat:' .. shard, heartbeat, 'seen:' .. shard, now_ms(), 'status:' .. shard, status,
    'command:' .. shard, ARGV[5])
end
for _, key in ipairs({run, commands, parts}) do redis.call('PEXPIRE', key, ttl) end
local new = {}
local after = string.format('%.0f-0', tonumber(ARGV[5]) + 1)
for n, entry in ipairs(redis.call('XRANGE', commands, after, '+', 'COUNT', 64)) do
  new[n] = {tonumber(string.match(entry[1], '^%d+')), entry[2][1], entry[2][2]}
end
local heartbeats = {}
for other = 0, others - 1 do heartbeats[other + 1] = redis.call('HGET', run, 'heartbeat:' .. other) end
return {'ok', redis.call('HGET', run, 'leader'), redis.call('HGET', run, 'start'), new, heartbeats, last_number(parts)}
