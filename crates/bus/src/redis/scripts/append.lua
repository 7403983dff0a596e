-- Appends and publishes events, entry by entry, and stops at the first refusal. Redis refuses either the first write of a script
-- or none, so every event that is published is in the log.
--
-- KEYS  the mark, the writer's running queries, then the log of each entry.
-- ARGV  the mark that the writer knows, TTL in seconds, 'log' | 'pubsub', '1' if logs are complete (every server has restored),
--       then of each entry: its id, its frame and its channel. The channel of a terminator is ''.
-- Returns {entries taken, how many of them had no subscriber, why it stopped or '' at the end, a detail}:
--   'other_mark' Redis has lost its data; the detail is its mark, nothing was taken
--   'stale'      a later generation exists, and the log does not hold this event
--   'hole'       the log holds later events of the query and lacks this one
--   'lacks_end'  not a refusal: the last entry taken is the terminator of a closed session whose log lacks its `closed` entry,
--                because logs may not be complete; the detail is the terminator's new id if it was moved
--   'moved'      not a refusal: the last entry taken is a terminator whose position was taken; the detail is its new id
--   else         the error reply of Redis
local call, pcall_redis, sub, find = redis.call, redis.pcall, string.sub, string.find
local mark = call('GET', KEYS[1])
if mark ~= ARGV[1] then return {0, 0, 'other_mark', mark or ''} end
local running_hash, ttl, logged, complete = KEYS[2], ARGV[2], ARGV[3] == 'log', ARGV[4] == '1'
local unheard = 0

-- Adds an entry. Returns why it was refused. A log that this call creates gets its TTL here.
local function add(log, id, frame)
  local added = pcall_redis('XADD', log, 'NOMKSTREAM', id, 'e', frame)
  if not added then
    added = pcall_redis('XADD', log, id, 'e', frame)
    if type(added) == 'string' then call('EXPIRE', log, ttl) end
  end
  if type(added) == 'table' then return added.err end
end

-- XADD refuses an id that is not above the last one with a plain ERR, so only the text tells.
local function is_not_above(why) return find(why, 'equal or smaller', 1, true) end

local function generation_of(id) return tonumber(string.match(id, '^(%d+)')) end

local function holds(log, id, frame)
  local held = call('XRANGE', log, id, id)[1]
  return held and held[2][2] == frame
end

-- Returns why a token that is not above the log's top is refused; nil if the log holds it, which makes the append a repeat.
local function not_above(log, id, frame)
  if generation_of((top(log))) > generation_of(id) then return not holds(log, id, frame) and 'stale' or nil end
  if not call('XRANGE', log, id, id)[1] then return 'hole' end
end

-- Adds a terminator unless the log holds it. Returns why it was refused, or nil and its new id and frame if it was moved, or
-- 'ended' for a query that has a terminator already.
local function add_terminator(log, id, frame, exists, running)
  local why = add(log, id, frame)
  if not why then return end
  -- A session that Redis does not know any more never takes the terminator: its writer must stop.
  if not is_not_above(why) then return exists and why or 'stale' end
  local top_generation, top_seq = top(log)
  local held = holds(log, id, frame)
  if tonumber(top_generation) > generation_of(id) then return held and 'ended' or 'stale' end
  if held then return end
  if not running then return 'ended' end
  -- Another event has the position, because the reply to an earlier append was lost. The next position is free.
  local moved = top_generation .. '-' .. string.format('%.0f', tonumber(top_seq) + 1)
  -- #id + 9: the frame behind '{"id":"' .. id .. '"', a prefix of #id + 8 bytes.
  frame = '{"id":"' .. moved .. '"' .. sub(frame, #id + 9)
  call('XADD', log, moved, 'e', frame)
  return nil, moved, frame
end

-- Adds and publishes a terminator and releases its claim. Returns why it was refused, or nil, its new id if it was moved, and
-- whether the log of the closed session still lacks its `closed` entry.
local function terminate(log, id, frame)
  -- The key of the log is '<prefix>session:<id>:log'; the session's other keys differ in the last part.
  local base = sub(log, 1, -4)
  local meta, down = base .. 'meta', base .. 'down'
  local session, generation = string.match(base, 'session:([^:]+):$'), string.match(id, '^(%d+)')
  local status, current, running = unpack(call('HMGET', meta, 'status', 'gen', 'running'))
  if current and current ~= generation then
    remove_ended(meta, running_hash, session, generation)
    return not (logged and holds(log, id, frame)) and 'stale' or nil
  end
  local attach = base .. 'attach'
  if is_due(meta, ttl) then renew(meta, log, attach, ttl) end
  local moved
  if logged then
    local why, new_id, new_frame = add_terminator(log, id, frame, status, running)
    if why and find(why, '^%-?OOM') then
      -- A Redis that is out of memory takes EXPIRE, and then all further writes of the same script. Queries can therefore end.
      renew(meta, log, attach, ttl)
      why, new_id, new_frame = add_terminator(log, id, frame, status, running)
    end
    if why == 'ended' or why == 'stale' then remove_ended(meta, running_hash, session, generation) end
    if why == 'ended' then return end
    if why then return why end
    if new_id then moved, frame = new_id, new_frame end
  end
  if call('PUBLISH', down, frame) == 0 then unheard = unheard + 1 end
  local lacks_end
  if status == 'closed' then
    local missing
    if logged then missing = not has_closed_entry(log) else missing = running end
    lacks_end = logged and missing and not complete
    if missing and not lacks_end then write_closed_entry(log, down, logged) end
  end
  if lacks_end then
    -- The session stays listed, so that a peer writes the missing entry if this server dies.
    call('HDEL', meta, 'running')
  else
    call('HDEL', meta, 'running', 'owner')
    remove_running(running_hash, session, generation)
  end
  return nil, moved, lacks_end
end

local n = 5
for k = 3, #KEYS do
  local log, id, frame, down = KEYS[k], ARGV[n], ARGV[n + 1], ARGV[n + 2]
  n = n + 3
  local why, moved, lacks_end
  if down == '' then
    local ran
    -- `pcall`: a key of the wrong type must stop this entry and not the script, which has taken the entries before it.
    ran, why, moved, lacks_end = pcall(terminate, log, id, frame)
    if not ran then why = type(why) == 'table' and why.err or tostring(why) end
  else
    why = logged and add(log, id, frame) or nil
    if why and is_not_above(why) then why = not_above(log, id, frame) end
    if not why and call('PUBLISH', down, frame) == 0 then unheard = unheard + 1 end
  end
  if why then return {k - 3, unheard, why, ''} end
  if lacks_end then return {k - 2, unheard, 'lacks_end', moved or ''} end
  if moved then return {k - 2, unheard, 'moved', moved} end
end
return {#KEYS - 2, unheard, '', ''}
