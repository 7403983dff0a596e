-- Ends an attachment, and stores its cursor if there is one. A gateway that has taken the session over is notified. A session that is
-- over expires soon.
--
-- KEYS  attach.
-- ARGV  prefix of names, session, TTL in seconds, the attachment's epoch, cursor or ''.
-- Returns 1.
local attach = KEYS[1]
local prefix, session, ttl, epoch, cursor = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local current, holder, stored, stored_epoch =
  unpack(redis.call('HMGET', attach, 'epoch', 'holder', 'cursor', 'cursor_epoch'))
if cursor ~= '' and tonumber(epoch) > tonumber(stored_epoch or '0') then
  redis.call('HSET', attach, 'cursor', cursor, 'cursor_epoch', epoch)
  stored = cursor
end
-- The cursor of an attachment that had expired.
if cursor ~= '' and not (current or stored_epoch) then redis.call('EXPIRE', attach, ttl) end
if current == epoch then
  redis.call('HDEL', attach, 'holder')
  -- The key of the attach hash is '<prefix>session:<id>:attach'; the session's other keys differ in the last part.
  local base = string.sub(attach, 1, -7)
  forget_if_over(base .. 'meta', base .. 'log', attach, ttl)
elseif holder then
  redis.call('PUBLISH', prefix .. 'control:' .. holder,
    '{"released":{"session":"' .. session .. '","epoch":' .. epoch .. ',"cursor":"' .. (stored or '0-0') .. '"}}')
end
return 1
