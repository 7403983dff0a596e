-- Restores one page of what a server has acknowledged of a session, in a Redis that may have lost it. The last page also
-- restores the meta hash, so that nobody claims the session before its log is complete.
--
-- A fence drops entries between the position that it names and itself. If they were acknowledged, one `gap` entry replaces them.
-- The log of a closed session gets no `closed` entry here: another server may know of a later query.
--
-- KEYS  meta, log, the owner's running queries.
-- ARGV  TTL in seconds, 'log' | 'pubsub', down channel, session, owner, '1' for the last page, then the server's record:
--       '1' if closed, generation, position before the generation or '', query id, answer, '1' if running, past queries;
--       then id and frame of each log entry, oldest first.
-- Returns 1.
local meta, log, running_hash = KEYS[1], KEYS[2], KEYS[3]
local ttl, logged, down, session, owner = ARGV[1], ARGV[2] == 'log', ARGV[3], ARGV[4], ARGV[5]
local last_page, closed, generation, prev, query, answer, runs =
  ARGV[6] == '1', ARGV[7] == '1', ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12] == '1'
-- Index of the first log entry in ARGV.
local FIRST = 14

local function split(id)
  local g, s = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(g), tonumber(s)
end

-- Returns whether position g1-s1 is above g2-s2.
local function above(g1, s1, g2, s2) return g1 > g2 or (g1 == g2 and s1 > s2) end

local function kind_of(frame) return string.match(frame, '^{"id":"[^"]*","type":"(%l+)"') end

-- Returns the position that a fence names, nil if it names none or the frame is not a fence.
local function fenced(frame)
  local g, s = string.match(frame, '^{"id":"[^"]*","type":"fence","prev":"(%d+)%-(%d+)"')
  if g then return tonumber(g), tonumber(s) end
end

-- Kinds whose loss a client must hear of.
local EVENTS = {token = true, done = true, error = true, gap = true}

-- Merges the log with the server's entries from index `first` of ARGV on, as `rules::merge` does, and publishes new gaps.
-- An entry is {generation, sequence, id, frame}.
local function merge(first)
  local entries, known = {}, {}
  local existing = redis.call('XRANGE', log, '-', '+')
  for _, entry in ipairs(existing) do
    local g, s = split(entry[1])
    known[entry[1]] = true
    entries[#entries + 1] = {g, s, entry[1], entry[2][2]}
  end
  for n = first, #ARGV, 2 do
    if not known[ARGV[n]] then
      local g, s = split(ARGV[n])
      entries[#entries + 1] = {g, s, ARGV[n], ARGV[n + 1]}
    end
  end
  table.sort(entries, function(a, b) return above(b[1], b[2], a[1], a[2]) end)
  -- `reach` is the position that the fence above names: entries between the two are dropped. `lost` is the newest of them.
  local merged, gaps, reach_g, reach_s, lost = {}, {}, nil, nil, nil
  local function add_gap()
    if not lost then return end
    local from = string.format('%.0f-%.0f', reach_g, reach_s)
    local frame = '{"id":"' .. lost[3] .. '","type":"gap","from":"' .. from .. '"}'
    merged[#merged + 1] = {lost[1], lost[2], lost[3], frame}
    if not (known[lost[3]] and lost[4] == frame) then gaps[#gaps + 1] = frame end
    lost = nil
  end
  -- From the newest entry down, because a fence that a later fence drops has no effect.
  for n = #entries, 1, -1 do
    local entry = entries[n]
    local kind = kind_of(entry[4])
    if reach_g and above(entry[1], entry[2], reach_g, reach_s) then
      if EVENTS[kind] then lost = lost or entry end
    else
      add_gap()
      if kind == 'fence' then reach_g, reach_s = fenced(entry[4]) end
      merged[#merged + 1] = entry
    end
  end
  add_gap()
  -- `merged` is newest first, `existing` oldest first. An unchanged log is not written again.
  local same = #merged == #existing
  for n, entry in ipairs(existing) do
    same = same and merged[#merged + 1 - n][3] == entry[1] and merged[#merged + 1 - n][4] == entry[2][2]
  end
  if same then return end
  redis.call('DEL', log)
  for n = #merged, 1, -1 do redis.call('XADD', log, merged[n][3], 'e', merged[n][4]) end
  for _, frame in ipairs(gaps) do redis.call('PUBLISH', down, frame) end
end

local function restore_log()
  local top_g, top_s = top(log)
  top_g, top_s = tonumber(top_g), tonumber(top_s)
  -- Skips entries that the log has.
  local first = FIRST
  while ARGV[first] do
    local g, s = split(ARGV[first])
    if above(g, s, top_g, top_s) or not redis.call('XRANGE', log, ARGV[first], ARGV[first])[1] then break end
    first = first + 2
  end
  if ARGV[first] then
    -- The common case needs no merge: everything that is missing follows the log's end without a gap.
    local g, s = split(ARGV[first])
    local prev_g, prev_s = fenced(ARGV[first + 1])
    local unsure = kind_of(ARGV[first + 1]) == 'fence' and not prev_g
    local follows = (top_g == 0 and top_s == 0) or (g == top_g and s == top_s + 1)
      or (above(g, s, top_g, top_s) and (unsure or (prev_g and not above(top_g, top_s, prev_g, prev_s))))
    if follows then
      for n = first, #ARGV, 2 do redis.call('XADD', log, ARGV[n], 'e', ARGV[n + 1]) end
    else
      merge(first)
    end
  end
  redis.call('EXPIRE', log, ttl)
end

-- Merges the earlier queries of both sides, so that a late repeat of one of them does not run it again.
local function restore_past(current, current_query, past)
  local newest = math.max(tonumber(generation), tonumber(current or '0'))
  local by_generation, all_past = {}, {}
  local function add_past(list)
    for _, earlier in ipairs(list) do
      if earlier[1] > 0 and earlier[1] < newest then by_generation[earlier[1]] = earlier end
    end
  end
  add_past(read_past(past))
  add_past(read_past(ARGV[13]))
  if current then add_past({past_query(current, current_query)}) end
  add_past({past_query(generation, query)})
  for _, earlier in pairs(by_generation) do all_past[#all_past + 1] = earlier end
  table.sort(all_past, function(a, b) return a[1] < b[1] end)
  write_past(meta, all_past)
end

local function restore_meta()
  local status, current, running, now_owner, current_query, past =
    unpack(redis.call('HMGET', meta, 'status', 'gen', 'running', 'owner', 'query', 'past'))
  if closed then status = 'closed' elseif not status then status = 'active' end
  redis.call('HSET', meta, 'status', status)
  restore_past(current, current_query, past)
  if tonumber(generation) > tonumber(current or '0') then
    redis.call('HSET', meta, 'gen', generation, 'prev', prev, 'query', query, 'answer', answer)
    if runs then redis.call('HSET', meta, 'running', '1', 'owner', owner)
    else redis.call('HDEL', meta, 'running', 'owner') end
  elseif generation == current and not runs and running and now_owner == owner then
    redis.call('HDEL', meta, 'running', 'owner')
  end
  if runs and generation == redis.call('HGET', meta, 'gen') and redis.call('HGET', meta, 'owner') == owner then
    redis.call('HSET', running_hash, session, generation)
    redis.call('EXPIRE', running_hash, ttl)
  else
    remove_ended(meta, running_hash, session, generation)
  end
  -- The key of the meta hash is '<prefix>session:<id>:meta'; the session's other keys differ in the last part.
  renew(meta, log, string.sub(meta, 1, -5) .. 'attach', ttl)
end

if logged and ARGV[FIRST] then restore_log() end
if not last_page then return 1 end
restore_meta()
-- The key of the meta hash is '<prefix>session:<id>:meta'; the session's other keys differ in the last part.
local attach = string.sub(meta, 1, -5) .. 'attach'
if not logged then
  forget_if_over(meta, log, attach, ttl)
  return 1
end
redis.call('EXPIRE', log, ttl)
-- A closed and idle session whose log lacks its `closed` entry needs a server that writes it: the one that closed the session, and
-- any other one if none is known.
local status, running, end_owner, current = unpack(redis.call('HMGET', meta, 'status', 'running', 'owner', 'gen'))
if status == 'closed' and not running and not has_closed_entry(log)
  and (closed or not end_owner or end_owner == owner) then
  list_for_end(meta, running_hash, session, current, owner, ttl)
end
forget_if_over(meta, log, attach, ttl)
-- Publishes the last entry once more: a lane that lacks it reads the log again.
local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
if last then redis.call('PUBLISH', down, last[2][2]) end
return 1
