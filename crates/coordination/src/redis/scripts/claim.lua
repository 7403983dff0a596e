-- Gives a generator a shard, before the start.
--
-- KEYS  the run, its commands, its requests, the parts of each shard.
-- ARGV  fingerprint, number of generators, the generator's token, its host, the wanted shard or '', TTL in ms, age in ms from which
--       a claim can expire; then pairs: a shard, and its heartbeat, which the caller saw unchanged several times.
-- Returns one of
--   {'claimed', shard}     also for a repeat by the same token
--   {'held', {shard, host, heartbeat} of each shard that can be waited for}
--   {'plan', fingerprint}, {'number', number of generators}   the run differs
--   {'started'}, {'finished'}, {'shard finished'}              the run gives out no shards any more
local run, fingerprint, generators, token, host, wanted = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local expiry = tonumber(ARGV[7])
local now = now_ms()

local function field(name, shard) return redis.call('HGET', run, name .. ':' .. shard) end
-- Redis' clock may have been set back, which says nothing.
local function age(shard) return math.abs(now - tonumber(field('seen', shard) or '0')) end

local started, verdict = unpack(redis.call('HMGET', run, 'start', 'verdict'))
local theirs, number = unpack(redis.call('HMGET', run, 'fingerprint', 'generators'))
if theirs and (theirs ~= fingerprint or tonumber(number) ~= generators) and not started then
  -- Nothing is left of a run that never started and whose generators are all gone.
  local living = false
  for shard = 0, tonumber(number) - 1 do
    if field('token', shard) and age(shard) < 2 * expiry then living = true end
  end
  if not living then
    redis.call('DEL', unpack(KEYS))
    theirs = nil
  end
end
if theirs and theirs ~= fingerprint then return {'plan', theirs} end
if theirs and tonumber(number) ~= generators then return {'number', number} end
for shard = 0, generators - 1 do
  if field('token', shard) == token then return {'claimed', shard} end
end
if verdict then return {'finished'} end
if started then
  if wanted ~= '' and field('finished', wanted) then return {'shard finished'} end
  return {'started'}
end

local function take(shard)
  -- What an earlier run or holder left has the same numbers, which begin with 1.
  if not theirs then redis.call('DEL', KEYS[2], KEYS[3]) end
  redis.call('DEL', KEYS[4 + shard])
  for _, name in ipairs({'rtt', 'status', 'finished', 'lost'}) do redis.call('HDEL', run, name .. ':' .. shard) end
  redis.call('HSET', run, 'fingerprint', fingerprint, 'generators', generators, 'token:' .. shard, token,
    'host:' .. shard, host, 'heartbeat:' .. shard, '0', 'seen:' .. shard, now)
  redis.call('PEXPIRE', run, ARGV[6])
  return {'claimed', shard}
end

local first, last = 0, generators - 1
if wanted ~= '' then first, last = tonumber(wanted), tonumber(wanted) end
for shard = first, last do
  if not field('token', shard) then return take(shard) end
end
for pair = 8, #ARGV, 2 do
  local shard = tonumber(ARGV[pair])
  local stale = age(shard) >= expiry or now < tonumber(field('seen', shard) or '0')
  if field('heartbeat', shard) == ARGV[pair + 1] and stale then return take(shard) end
end
local held = {}
for shard = first, last do held[#held + 1] = {shard, field('host', shard), field('heartbeat', shard)} end
return {'held', held}
