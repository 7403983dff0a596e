-- Restores the cursor that a gateway released, in a Redis that may have lost it. A holder with a smaller epoch, which may have
-- restored its attachment before, is notified that it was taken over.
--
-- KEYS  attach.
-- ARGV  the released attachment's epoch, cursor, TTL in seconds, prefix of names, session.
-- Returns 1.
local attach, epoch = KEYS[1], ARGV[1]
local current, stored_epoch, holder = unpack(redis.call('HMGET', attach, 'epoch', 'cursor_epoch', 'holder'))
if tonumber(epoch) > tonumber(stored_epoch or '0') then
  redis.call('HSET', attach, 'cursor', ARGV[2], 'cursor_epoch', epoch)
end
if tonumber(epoch) > tonumber(current or '0') then
  redis.call('HSET', attach, 'epoch', epoch)
  if holder then
    redis.call('HDEL', attach, 'holder')
    redis.call('PUBLISH', ARGV[4] .. 'control:' .. holder,
      '{"takeover":{"session":"' .. ARGV[5] .. '","epoch":' .. epoch .. '}}')
  end
end
redis.call('EXPIRE', attach, ARGV[3])
-- The key of the attach hash is '<prefix>session:<id>:attach'; the session's other keys differ in the last part.
local base = string.sub(attach, 1, -7)
forget_if_over(base .. 'meta', base .. 'log', attach, ARGV[3])
return 1
