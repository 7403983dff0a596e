-- Ends a query that its server cannot end: writes and publishes an error terminator, then a fence, so that the server finds
-- itself stale if it continues. If no query is running, but the server was to write the `closed` entry of the session's log, this
-- script writes it. If logs are not complete, the caller becomes responsible for that entry.
--
-- KEYS  meta, log, the server's running queries, the servers, attach, the caller's running queries.
-- ARGV  server, generation, session, the terminator's frame without its leading '{"id":"…"', TTL in seconds, 'log' | 'pubsub',
--       down channel, the heartbeat that did not change, '1' if logs are complete (every server has restored), the caller.
-- Returns whether it ended the query (1 or 0: the server is alive, or the claim has ended otherwise), and whether the caller has
-- become responsible for the `closed` entry (1 or 0).
local meta, log = KEYS[1], KEYS[2]
local owner, generation, session, tail, ttl, logged, down =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6] == 'log', ARGV[7]
local beat = redis.call('HGET', KEYS[4], owner)
if beat and beat ~= ARGV[8] then return {0, 0} end
-- First, so that a session whose keys cannot be read does not keep the dead server listed.
remove_running(KEYS[3], session, generation)
local status, current, running, now_owner = unpack(redis.call('HMGET', meta, 'status', 'gen', 'running', 'owner'))
if now_owner ~= owner or (running and current ~= generation) then return {0, 0} end
redis.call('HDEL', meta, 'running', 'owner')

-- Writes the `closed` entry, or makes the caller responsible for it. Returns whether the caller has become responsible.
local function end_log()
  if status ~= 'closed' or (logged and has_closed_entry(log)) then return 0 end
  if logged and ARGV[9] ~= '1' then
    list_for_end(meta, KEYS[6], session, current, ARGV[10], ttl)
    return 1
  end
  write_closed_entry(log, down, logged)
  return 0
end

if not running then
  -- A fence without a previous position announces that everything before it is lost.
  if logged and delete_unusable(log) then fence(log, down, next_generation(current), '', logged) end
  local lacks_end = end_log()
  redis.call('EXPIRE', log, ttl)
  return {0, lacks_end}
end
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
return {1, end_log()}
