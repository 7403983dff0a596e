-- Functions that several scripts share.

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function now_ms() return math.floor(now_us() / 1000) end

-- Returns why a generator may not act for a shard, or nil:
--   {'unknown'}       Redis does not know the claim: it has lost its data
--   {'replaced'}      another generator holds the shard
--   {'lost', reason}  the leader counts the generator as lost
local function refusal(run, shard, token)
  local holder, lost = unpack(redis.call('HMGET', run, 'token:' .. shard, 'lost:' .. shard))
  if not holder then return {'unknown'} end
  if holder ~= token then return {'replaced'} end
  if lost then return {'lost', lost} end
  return nil
end

-- Returns why a process may not lead, or nil. '' stands for a process that reads the run from outside, and is never replaced.
--   {'unknown'}         Redis has lost its data, and no generator has restored them
--   {'replaced', shard} another shard leads
local function not_leading(run, leader)
  local fingerprint, current = unpack(redis.call('HMGET', run, 'fingerprint', 'leader'))
  if not fingerprint then return {'unknown'} end
  if leader == '' or current == leader then return nil end
  if not current then return {'unknown'} end
  return {'replaced', current}
end

-- Makes a shard the leader, unless a higher one leads: leadership is passed on to higher shards only.
local function set_leader(run, shard)
  local current = redis.call('HGET', run, 'leader')
  if not current or tonumber(current) < tonumber(shard) then redis.call('HSET', run, 'leader', shard) end
end

-- Returns the number of a stream's last entry, whose id is '<number>-0'.
local function last_number(stream)
  local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  return last and tonumber(string.match(last[1], '^%d+')) or 0
end
