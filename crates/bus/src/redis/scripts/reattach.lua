-- Restores that a gateway holds a session, in a Redis that may have lost the attachment or its last renewal.
--
-- KEYS  attach, meta, log.
-- ARGV  the attachment's epoch, gateway, TTL in seconds, prefix of names, session, '1' if the session takes queries.
-- Returns the newest epoch. If it is above the given one, another gateway has the session and nothing was changed.
local attach, meta, epoch = KEYS[1], KEYS[2], ARGV[1]
local current, holder = unpack(redis.call('HMGET', attach, 'epoch', 'holder'))
current = current or '0'
if tonumber(current) > tonumber(epoch) then return current end
redis.call('HSET', attach, 'epoch', epoch, 'holder', ARGV[2])
-- No server may remember a session that was idle for long: see `adopt`.
if ARGV[6] == '1' and redis.call('HEXISTS', meta, 'status') == 0 then
  redis.call('HSET', meta, 'held', '1')
end
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[3]) end
-- Redis had lost this attachment, and an earlier holder has restored its own: it is notified of the takeover once more.
if holder and current ~= epoch then
  redis.call('PUBLISH', ARGV[4] .. 'control:' .. holder,
    '{"takeover":{"session":"' .. ARGV[5] .. '","epoch":' .. epoch .. '}}')
end
return epoch
