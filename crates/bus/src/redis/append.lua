-- Appends and publishes events, entry by entry, and stops at the first refusal. Redis refuses a script's first write or
-- none, so nothing is published that the log lacks.
--
-- KEYS  the mark, the writer's running sessions, then the log of each entry.
-- ARGV  the mark that the writer knows, the TTL, 'log' | 'pubsub', '1' where logs are whole, then of each entry: its id, its frame, and its channel;
--       a terminator's channel is ''.
-- Returns how many entries were taken, how many of them reached nobody, why it stopped ('' at the end), and a detail:
--   'forgot'  another mark, the detail: Redis lost its data, nothing was taken
--   'stale'   a later generation exists, and the log does not hold this event
--   'hole'    the log holds later events of the query and lacks this one
--   'unmarked' not a refusal: the last entry taken is a terminator of a closed session whose log lacks its mark, because it may
--             not be whole; the detail is the terminator's new id, if it was moved
--   'moved'   not a refusal: the last entry taken is a terminator whose place was taken; the detail is its new id
--   else      Redis' own words
local call, pcall_redis, sub, find = redis.call, redis.pcall, string.sub, string.find
local mark = call('GET', KEYS[1])
if mark ~= ARGV[1] then return {0, 0, 'forgot', mark or ''} end
local ours, ttl, logged, whole = KEYS[2], ARGV[2], ARGV[3] == 'log', ARGV[4] == '1'
local unheard = 0

-- Returns why the entry was refused. A log that this call creates gets its TTL here.
local function add(log, id, frame)
  local added = pcall_redis('XADD', log, 'NOMKSTREAM', id, 'e', frame)
  if not added then
    added = pcall_redis('XADD', log, id, 'e', frame)
    if type(added) == 'string' then call('EXPIRE', log, ttl) end
  end
  if type(added) == 'table' then return added.err end
end

local function is_not_above(why) return find(why, 'equal or smaller', 1, true) end

local function generation_of(id) return tonumber(string.match(id, '^(%d+)')) end

local function holds(log, id, frame)
  local held = call('XRANGE', log, id, id)[1]
  return held and held[2][2] == frame
end

-- Returns why a token that is not above the top is refused; nothing where the log holds it.
local function not_above(log, id, frame)
  if generation_of((top(log))) > generation_of(id) then return not holds(log, id, frame) and 'stale' or nil end
  if not call('XRANGE', log, id, id)[1] then return 'hole' end
end

-- Adds a terminator, or finds that it is there. Returns why it was refused, or its place and frame if it was moved, or
-- 'ended' for a query that has its end.
local function place(log, id, frame, lives, running)
  local why = add(log, id, frame)
  if not why then return end
  -- The writer of a session that is gone gives up.
  if not is_not_above(why) then return lives and why or 'stale' end
  local top_generation, top_seq = top(log)
  local held = holds(log, id, frame)
  if tonumber(top_generation) > generation_of(id) then return held and 'ended' or 'stale' end
  if held then return end
  if not running then return 'ended' end
  -- The answer to an earlier append was lost, and another event has the place.
  local moved = top_generation .. '-' .. string.format('%.0f', tonumber(top_seq) + 1)
  frame = '{"id":"' .. moved .. '"' .. sub(frame, #id + 9)
  call('XADD', log, moved, 'e', frame)
  return nil, moved, frame
end

local function terminate(log, id, frame)
  local base = sub(log, 1, -4)
  local meta, down = base .. 'meta', base .. 'down'
  local session, generation = string.match(base, 'session:([^:]+):$'), string.match(id, '^(%d+)')
  local status, current, running = unpack(call('HMGET', meta, 'status', 'gen', 'running'))
  if current and current ~= generation then
    runs_no_more(ours, session, generation)
    return not (logged and holds(log, id, frame)) and 'stale' or nil
  end
  -- A full Redis takes this, and then the rest of the same script: queries can end. All keys live equally long.
  for _, key in ipairs({meta, log, base .. 'attach'}) do call('EXPIRE', key, ttl) end
  local moved
  if logged then
    local why, new_id, new_frame = place(log, id, frame, status, running)
    if why == 'ended' or why == 'stale' then runs_no_more(ours, session, generation) end
    if why == 'ended' then return end
    if why then return why end
    if new_id then moved, frame = new_id, new_frame end
  end
  if call('PUBLISH', down, frame) == 0 then unheard = unheard + 1 end
  runs_no_more(ours, session, generation)
  if running then call('HDEL', meta, 'running', 'owner') end
  local unmarked
  if status == 'closed' then
    local lacks_mark
    if logged then lacks_mark = not is_marked(log) else lacks_mark = running end
    unmarked = logged and lacks_mark and not whole
    if lacks_mark and not unmarked then mark_closed(log, down, logged) end
  end
  return nil, moved, unmarked
end

local n = 5
for k = 3, #KEYS do
  local log, id, frame, down = KEYS[k], ARGV[n], ARGV[n + 1], ARGV[n + 2]
  n = n + 3
  local why, moved, unmarked
  if down == '' then
    local ran
    ran, why, moved, unmarked = pcall(terminate, log, id, frame)
    if not ran then why = type(why) == 'table' and why.err or tostring(why) end
  else
    why = logged and add(log, id, frame) or nil
    if why and is_not_above(why) then why = not_above(log, id, frame) end
    if not why and call('PUBLISH', down, frame) == 0 then unheard = unheard + 1 end
  end
  if why then return {k - 3, unheard, why, ''} end
  if unmarked then return {k - 2, unheard, 'unmarked', moved or ''} end
  if moved then return {k - 2, unheard, 'moved', moved} end
end
return {#KEYS - 2, unheard, '', ''}
