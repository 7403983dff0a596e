-- Releases a claim whose terminator the log refuses for good: the terminator is published and not logged.
--
-- KEYS  meta, the owner's running sessions, the mark.
-- ARGV  the mark that the owner knows, session, owner, the terminator's generation and sequence, its frame, the TTL, the down channel.
-- Returns the outcome, how many heard the terminator, and a detail:
--   'released'  the claim is released
--   'ended'     the claim has ended otherwise, or the session is gone; nothing was published
--   'forgot'    another mark, the detail: Redis lost its data, nothing was changed
local meta, ours = KEYS[1], KEYS[2]
local session, owner, generation, seq, frame, ttl, down =
  ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local mark = redis.call('GET', KEYS[3]) or ''
if mark ~= ARGV[1] then return {'forgot', 0, mark} end
local status, current, running, now_owner = unpack(redis.call('HMGET', meta, 'status', 'gen', 'running', 'owner'))
if not running or current ~= generation or now_owner ~= owner then
  runs_no_more(ours, session, generation)
  return {'ended', 0, ''}
end
-- A channel that refuses the message must not keep the session.
local heard = redis.pcall('PUBLISH', down, frame)
redis.call('HDEL', meta, 'running', 'owner')
runs_no_more(ours, session, generation)
if status == 'closed' then
  local id = generation .. '-' .. string.format('%.0f', tonumber(seq) + 1)
  redis.pcall('PUBLISH', down, '{"id":"' .. id .. '","type":"closed"}')
end
redis.call('EXPIRE', meta, ttl)
return {'released', type(heard) == 'number' and heard or 0, ''}
