-- Attaches a gateway to a session. The gateway that has the session is notified of the takeover.
--
-- KEYS  attach, meta, log, the mark.
-- ARGV  prefix of names, session, TTL in seconds, gateway, deadline in Redis' milliseconds, the position that the client names
--       or '', '1' if missing data may still be restored, 'log' | 'pubsub'.
-- Returns {outcome, epoch, the epoch before it, number of gateways notified, cursor, generation, the log's last position,
--          1 if the client's position is above every position that can exist, mark, 1 if the session takes queries}:
--   'attached'   the gateway has the session
--   'late'       the deadline has passed
--   'beyond'     the client's position does not exist, and nothing is being restored
-- Only 'attached' changes anything: neither a late call nor a wrong position may end a healthy socket.
local attach, meta, log = KEYS[1], KEYS[2], KEYS[3]
local prefix, session, ttl, instance, deadline, after, young, logged =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6], ARGV[7] == '1', ARGV[8] == 'log'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local mark = redis.call('GET', KEYS[4])
if now > deadline then return {'late', 0, 0, 0, '0-0', 0, '0-0', 0, mark, 0} end
local status, generation, held = unpack(redis.call('HMGET', meta, 'status', 'gen', 'held'))
generation = generation or '0'
local top_g, top_s = '0', '0'
if logged then top_g, top_s = top(log) end
local ahead = 0
-- The highest position that a client can have received. Without a log only the generation is known. If the session has expired,
-- only the time is known, because generations do not exceed it.
if after ~= '' then
  local reach_g, reach_s = tonumber(top_g), tonumber(top_s)
  if tonumber(generation) > reach_g then
    reach_g, reach_s = tonumber(generation), math.huge
  elseif not status and reach_g == 0 and reach_s == 0 then
    reach_g, reach_s = now, math.huge
  end
  local g, s = string.match(after, '^(%d+)-(%d+)$')
  g, s = tonumber(g), tonumber(s)
  if g > reach_g or (g == reach_g and s > reach_s) then ahead = 1 end
end
local top_id = top_g .. '-' .. top_s
if ahead == 1 and not young then return {'beyond', 0, 0, 0, '0-0', generation, top_id, 1, mark, 0} end
local before, holder, cursor = unpack(redis.call('HMGET', attach, 'epoch', 'holder', 'cursor'))
local is_new = not (before or cursor)
before = before or '0'
-- The time keeps epochs growing even if Redis has lost the last ones.
local epoch = string.format('%.0f', math.max(tonumber(before) + 1, now))
redis.call('HSET', attach, 'epoch', epoch, 'holder', instance)
-- All keys: without this the session could expire before its next renewal.
if is_due(meta, ttl) then renew(meta, log, attach, ttl) elseif is_new then redis.call('EXPIRE', attach, ttl) end
local notified = 0
if holder then
  notified = redis.call('PUBLISH', prefix .. 'control:' .. holder,
    '{"takeover":{"session":"' .. session .. '","epoch":' .. epoch .. '}}')
end
local active = (status == 'active' or (not status and held)) and 1 or 0
return {'attached', epoch, before, notified, cursor or '0-0', generation, top_id, ahead, mark, active}
