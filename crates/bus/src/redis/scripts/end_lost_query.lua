-- Ends a query that its server cannot end: writes and publishes an error terminator, then a fence, so that the server finds
-- itself stale if it continues.
--
-- KEYS  meta, log, the server's running queries, the servers, attach.
-- ARGV  server, generation, session, the terminator's frame without its leading '{"id":"…"', TTL in seconds, 'log' | 'pubsub',
--       down channel, the heartbeat that did not change, '1' if logs are complete (every server has restored).
-- Returns 1 if it ended the query, 2 if it did so and the session's log still lacks its `closed` entry because logs may not be
-- complete, 0 if nothing was ended: the server is alive, or the claim has ended otherwise.
local meta, log = KEYS[1], KEYS[2]
local owner, generation, session, tail, ttl, logged, down =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6] == 'log', ARGV[7]
local beat = redis.call('HGET', KEYS[4], owner)
if beat and beat ~= ARGV[8] then return 0 end
-- First, so that a session whose keys cannot be read does not keep the dead server listed.
remove_running(KEYS[3], session, generation)
local status, current, running, now_owner = unpack(redis.call('HMGET', meta, 'status', 'gen', 'running', 'owner'))
if not running or current ~= generation or now_owner ~= owner then return 0 end
redis.call('HDEL', meta, 'running', 'owner')
redis.call('EXPIRE', meta, ttl)
redis.call('EXPIRE', KEYS[5], ttl)
-- Without a log only the gateway knows the last event that it sent. Sequence 0 means the position after that one.
if not logged then redis.call('PUBLISH', down, '{"id":"' .. generation .. '-0"' .. tail) end
if logged then
  -- If the log had to be deleted, the last position is unknown. The fence then announces that everything before it is lost.
  local deleted = delete_unusable(log)
  local top_generation, top_seq = top(log)
  if tonumber(top_generation) <= tonumber(generation) then
    local seq = 1
    if top_generation == generation then seq = tonumber(top_seq) + 1 end
    local id = generation .. '-' .. string.format('%.0f', seq)
    local frame = '{"id":"' .. id .. '"' .. tail
    redis.call('XADD', log, id, 'e', frame)
    redis.call('PUBLISH', down, frame)
    fence(log, down, next_generation(generation), deleted and '' or id, logged)
  end
  redis.call('EXPIRE', log, ttl)
end
if status == 'closed' and not (logged and has_closed_entry(log)) then
  if logged and ARGV[9] ~= '1' then return 2 end
  write_closed_entry(log, down, logged)
end
return 1
