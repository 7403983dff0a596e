-- Closes a session. If a query is running, its server is asked to end it. Otherwise the log gets its `closed` entry, but only
-- if logs are complete. If they are not, the calling server must close the session again later: the meta hash names it as
-- `owner` without `running`, and the session is listed for it, so that a peer takes over if it dies.
--
-- KEYS  meta, log, the mark, the calling server's running queries.
-- ARGV  prefix of names, session, TTL in seconds, 'log' | 'pubsub', down channel, the mark that the caller knows,
--       '1' if logs are complete (every server has restored), '1' if the mark is old, the calling server.
-- Returns 1 for a session that exists, 0 for an unknown one, -1 if Redis has another mark.
local meta, log = KEYS[1], KEYS[2]
local prefix, session, ttl, logged, down = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == 'log', ARGV[5]
if redis.call('GET', KEYS[3]) ~= ARGV[6] then return -1 end
adopt(meta, ARGV[8] == '1')
local status, running, owner, generation = unpack(redis.call('HMGET', meta, 'status', 'running', 'owner', 'gen'))
-- The key of the meta hash is '<prefix>session:<id>:meta'; the session's other keys differ in the last part.
local attach = string.sub(meta, 1, -5) .. 'attach'
if not status then return 0 end
redis.call('HSET', meta, 'status', 'closed')
renew(meta, log, attach, ttl)
if running then
  redis.call('PUBLISH', prefix .. 'control:' .. owner,
    '{"cancel":{"session":"' .. session .. '","generation":' .. generation .. '}}')
elseif ARGV[7] == '1' then
  -- A fence without a previous position announces that everything before it is lost.
  if logged and delete_unusable(log) then fence(log, down, next_generation(generation), '', logged) end
  if status ~= 'closed' or (logged and not has_closed_entry(log)) then
    write_closed_entry(log, down, logged)
    redis.call('EXPIRE', log, ttl)
  end
  redis.call('HDEL', meta, 'owner')
  remove_running(KEYS[4], session, generation or '0')
elseif logged then
  list_for_end(meta, KEYS[4], session, generation, ARGV[9], ttl)
end
forget_if_over(meta, log, attach, ttl)
return 1
