-- KEYS attach, meta, log, mark. ARGV prefix of names, session, ttl, instance, deadline in Redis' ms, the position that the client
-- names or '', '1' where what is missing may still be restored, 'log' | 'pubsub'.
-- Returns the outcome, epoch, the one before it, how many were told, cursor, generation, the log's top, 1 if the position is
-- above what exists, the mark, and 1 if the session takes queries. Only the outcome 'attached' changes anything: a late call, or one that names a position
-- that does not exist, must not end a healthy socket. Epochs follow the clock, so that they grow even where they were lost.
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
before = before or '0'
local epoch = string.format('%.0f', math.max(tonumber(before) + 1, now))
redis.call('HSET', attach, 'epoch', epoch, 'holder', instance)
-- All keys of the session: their next renewal may be later than their end.
for _, key in ipairs({attach, meta, log}) do redis.call('EXPIRE', key, ttl) end
local told = 0
if holder then
  told = redis.call('PUBLISH', prefix .. 'control:' .. holder,
    '{"takeover":{"session":"' .. session .. '","epoch":' .. epoch .. '}}')
end
local active = (status == 'active' or (not status and held)) and 1 or 0
return {'attached', epoch, before, told, cursor or '0-0', generation, top_id, ahead, mark, active}
