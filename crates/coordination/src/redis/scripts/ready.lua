-- Reports that a generator is ready. The last one sets the start, so all read the same.
--
-- KEYS  the run.
-- ARGV  shard, token, the generator's longest round trip in us, age in ms from which a claim can expire, shortest time until the start
--       in us, TTL in ms.
-- Returns a refusal (lib.lua), {'start', Redis' time in us}, or {'came', number of generators that are ready and live}.
local run, shard = KEYS[1], ARGV[1]
local refused = refusal(run, shard, ARGV[2])
if refused then return refused end
local start, generators = unpack(redis.call('HMGET', run, 'start', 'generators'))
if start then return {'start', start} end
redis.call('HSET', run, 'rtt:' .. shard, ARGV[3])
local now, came, longest = now_us(), 0, 0
for other = 0, tonumber(generators) - 1 do
  local rtt, seen = unpack(redis.call('HMGET', run, 'rtt:' .. other, 'seen:' .. other))
  -- A time in the future was written before Redis' clock was set back. A living generator soon writes another one.
  local age = now / 1000 - tonumber(seen or '0')
  if rtt and age > -1000 and age < tonumber(ARGV[4]) then
    came = came + 1
    longest = math.max(longest, tonumber(rtt))
  end
end
if came < tonumber(generators) then return {'came', came} end
start = string.format('%.0f', now + math.max(tonumber(ARGV[5]), 10 * longest))
redis.call('HSET', run, 'start', start)
redis.call('PEXPIRE', run, ARGV[6])
set_leader(run, '0')
return {'start', start}
