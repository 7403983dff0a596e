-- Releases a claim whose terminator the log refuses for good: the terminator is published and not logged.
--
-- KEYS  meta, the owner's running queries, the mark.
-- ARGV  the mark that the owner knows, session, owner, generation and sequence of the terminator, its frame, TTL in seconds,
--       down channel.
-- Returns {outcome, number of subscribers that received the terminator, mark or ''}:
--   'released'   the claim is released
--   'ended'      the claim has ended otherwise, or the session is gone; nothing was published
--   'other_mark' Redis has lost its data; the third value is its mark, nothing was changed
local meta, running_hash = KEYS[1], KEYS[2]
local session, owner, generation, seq, frame, ttl, down =
  ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local mark = redis.call('GET', KEYS[3]) or ''
if mark ~= ARGV[1] then return {'other_mark', 0, mark} end
local status, current, running, now_owner = unpack(redis.call('HMGET', meta, 'status', 'gen', 'running', 'owner'))
if not running or current ~= generation or now_owner ~= owner then
  remove_ended(meta, running_hash, session, generation)
  return {'ended', 0, ''}
end
-- `pcall`: if the channel refuses the message, the claim is released all the same.
local receivers = redis.pcall('PUBLISH', down, frame)
redis.call('HDEL', meta, 'running', 'owner')
remove_running(running_hash, session, generation)
if status == 'closed' then
  local id = generation .. '-' .. string.format('%.0f', tonumber(seq) + 1)
  redis.pcall('PUBLISH', down, '{"id":"' .. id .. '","type":"closed"}')
end
-- The key of the meta hash is '<prefix>session:<id>:meta'; the session's other keys differ in the last part.
local base = string.sub(meta, 1, -5)
renew(meta, base .. 'log', base .. 'attach', ttl)
return {'released', type(receivers) == 'number' and receivers or 0, ''}
