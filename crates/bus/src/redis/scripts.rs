//! The steps that must be atomic, as Lua that runs inside Redis. Each is idempotent: a caller that lost the answer
//! runs it again. Frames made here are the same bytes that `protocol` encodes; the contract tests compare them.

use redis::Script;

/// Finds the log's top as generation and sequence number; `0-0` for an empty log.
const TOP: &str = r"
local function top(log)
  local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)
  if not last[1] then return '0', '0' end
  return string.match(last[1][1], '^(%d+)-(%d+)$')
end
";

/// Deletes a log whose key has another type than a stream: it holds nothing that can be delivered, and nothing can be added to
/// it. Returns whether it did.
const DROP_UNUSABLE: &str = r"
local function drop_unusable(log)
  local kind = redis.call('TYPE', log).ok
  if kind == 'stream' or kind == 'none' then return false end
  redis.call('DEL', log)
  return true
end
";

/// Fences off every earlier writer. `prev` is the last position before the fence, '' where that is not known.
const FENCE: &str = r#"
local function fence(log, down, generation, prev, logged)
  local quoted = prev == '' and 'null' or '"' .. prev .. '"'
  local frame = '{"id":"' .. generation .. '-0","type":"fence","prev":' .. quoted .. '}'
  if logged then redis.call('XADD', log, generation .. '-0', 'e', frame) end
  redis.call('PUBLISH', down, frame)
end
"#;

/// Returns the generation of a fence behind this one: at least the time in milliseconds.
const NEXT_GENERATION: &str = r"
local function next_generation(generation)
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  return string.format('%.0f', math.max(tonumber(generation or '0') + 1, now))
end
";

/// Marks the end of a closed session behind all its events, and behind a fence whose generation is at least the time: lanes may have
/// received a claim that was lost with Redis' data and that nobody remembers, and would take a mark below it for one that they
/// have seen.
const MARK_CLOSED: &str = r#"
local function is_marked(log)
  local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  return last and string.find(last[2][2], '","type":"closed"', 1, true)
end
local function mark_closed(log, down, logged)
  local id = '0-1'
  if logged then
    local top_generation, top_seq = top(log)
    local generation = next_generation(top_generation)
    fence(log, down, generation, top_generation .. '-' .. top_seq, logged)
    id = generation .. '-1'
  end
  local frame = '{"id":"' .. id .. '","type":"closed"}'
  if logged then redis.call('XADD', log, id, 'e', frame) end
  redis.call('PUBLISH', down, frame)
end
"#;

/// Takes a session off a server's running ones, unless it runs a later query there: the call may have come late, or twice.
const RUNS_NO_MORE: &str = r"
local function runs_no_more(ours, session, generation)
  local listed = redis.call('HGET', ours, session)
  if listed and tonumber(listed) <= tonumber(generation) then redis.call('HDEL', ours, session) end
end
";

/// KEYS mark, the run id that it was made for. ARGV a unique name, the run id of this Redis. Makes a new mark where there is
/// none or Redis was started again: it may lack something either way. Returns the mark and Redis' time in milliseconds.
const MARK: &str = r"
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local mark = redis.call('GET', KEYS[1])
if not mark or redis.call('GET', KEYS[2]) ~= ARGV[2] then
  mark = ARGV[1] .. ':' .. now
  redis.call('SET', KEYS[1], mark)
  redis.call('SET', KEYS[2], ARGV[2])
end
return {mark, now}
";

/// Earlier queries of a session, as `<generation> <query id>` in a JSON list: at most so many are remembered.
const PAST: &str = r"
local PAST = 8
local function read_past(json)
  local past = cjson.decode(json or '[]')
  for n, text in ipairs(past) do
    local generation, query = string.match(text, '^(%d+) (.*)$')
    if query then past[n] = {tonumber(generation), query, text} else past[n] = {0, text, '0 ' .. text} end
  end
  return past
end
local function write_past(meta, past)
  local texts = {}
  for n = math.max(1, #past - PAST + 1), #past do texts[#texts + 1] = past[n][3] end
  if #texts > 0 then redis.call('HSET', meta, 'past', cjson.encode(texts)) end
end
local function past_query(generation, query) return {tonumber(generation), query, generation .. ' ' .. query} end
";

/// Lets a session take queries that a gateway restored and no server did. Only an old mark allows it: until then the server that
/// knows the session may still restore it.
const ADOPT: &str = r"
local function adopt(meta, old)
  if old and redis.call('HEXISTS', meta, 'status') == 0 and redis.call('HEXISTS', meta, 'held') == 1 then
    redis.call('HSET', meta, 'status', 'active')
  end
end
";

/// KEYS meta, log, attach, the owner's running sessions, mark, servers. ARGV query, answer, owner, ttl, entries kept, 'log' |
/// 'pubsub', down channel, session, the mark that the owner knows, the last generation that it knows, '1' where the log is
/// whole, '1' where the mark is old. Returns the outcome, the generation, the position before it ('' for unknown), and the answer that was kept or the
/// mark of a Redis that is not the owner's.
const CLAIM: &str = r#"
local meta, log = KEYS[1], KEYS[2]
local query, answer, owner, ttl, keep, logged, down, session =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6] == 'log', ARGV[7], ARGV[8]
local mark = redis.call('GET', KEYS[5]) or ''
if mark ~= ARGV[9] then return {'lost', '0', '', mark} end
adopt(meta, ARGV[12] == '1')
if redis.call('HEXISTS', KEYS[6], owner) == 0 then return {'unlisted', '0', '', ''} end
local status, last_query, last_generation, last_prev, last_answer, running, past =
  unpack(redis.call('HMGET', meta, 'status', 'query', 'gen', 'prev', 'answer', 'running', 'past'))
if not status then return {'unknown', '0', '', ''} end
if last_query == query then return {'repeat', last_generation, last_prev or '', last_answer} end
past = read_past(past)
for _, earlier in ipairs(past) do
  if earlier[2] == query then return {'past', '0', '', ''} end
end
if status ~= 'active' then return {'closed', '0', '', ''} end
if running then return {'busy', '0', '', ''} end
local top_generation, top_seq = '0', '0'
if logged then top_generation, top_seq = top(log) end
local time = redis.call('TIME')
local generation = math.max(
  tonumber(last_generation or '0') + 1, tonumber(top_generation) + 1, tonumber(ARGV[10]) + 1,
  time[1] * 1000 + math.floor(time[2] / 1000))
generation = string.format('%.0f', generation)
local prev = ARGV[11] == '1' and top_generation .. '-' .. top_seq or ''
if logged then redis.call('XTRIM', log, 'MAXLEN', keep) end
fence(log, down, generation, prev, logged)
if logged then redis.call('EXPIRE', log, ttl) end
redis.call('HSET', meta, 'gen', generation, 'prev', prev, 'query', query, 'answer', answer, 'running', '1', 'owner', owner)
if last_query then
  past[#past + 1] = past_query(last_generation, last_query)
  write_past(meta, past)
end
redis.call('HSET', KEYS[4], session, generation)
redis.call('EXPIRE', meta, ttl)
redis.call('EXPIRE', KEYS[3], ttl)
redis.call('EXPIRE', KEYS[4], ttl)
return {'claimed', generation, prev, ''}
"#;

/// Appends, publishes and terminates: see the file's head.
const APPEND: &str = include_str!("append.lua");

/// Releases a claim without a terminator in the log: see the file's head.
const RELEASE_CLAIM: &str = include_str!("release.lua");

/// KEYS meta, log, mark. ARGV prefix of names, session, ttl, 'log' | 'pubsub', down channel, the mark that the caller knows,
/// '1' where the log is whole: it gets its end then, '1' where the mark is old. Returns 0 for an unknown session, -1 where the mark is another.
/// A log whose key has the wrong type is replaced: a fence announces that what was in it is gone, and the end follows.
const CLOSE: &str = r#"
local meta, log = KEYS[1], KEYS[2]
local prefix, session, ttl, logged, down = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == 'log', ARGV[5]
if redis.call('GET', KEYS[3]) ~= ARGV[6] then return -1 end
adopt(meta, ARGV[8] == '1')
local status, running, owner, generation = unpack(redis.call('HMGET', meta, 'status', 'running', 'owner', 'gen'))
if not status then return 0 end
redis.call('HSET', meta, 'status', 'closed')
redis.call('EXPIRE', meta, ttl)
redis.call('EXPIRE', log, ttl)
if running then
  redis.call('PUBLISH', prefix .. 'control:' .. owner,
    '{"cancel":{"session":"' .. session .. '","generation":' .. generation .. '}}')
elseif ARGV[7] == '1' then
  if logged and drop_unusable(log) then fence(log, down, next_generation(generation), '', logged) end
  if status ~= 'closed' or (logged and not is_marked(log)) then
    mark_closed(log, down, logged)
    redis.call('EXPIRE', log, ttl)
  end
end
return 1
"#;

const ATTACH: &str = include_str!("scripts/attach.lua");

/// KEYS attach. ARGV prefix of names, session, ttl, epoch, cursor or ''.
const RELEASE: &str = r#"
local attach = KEYS[1]
local prefix, session, ttl, epoch, cursor = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local current, holder, kept, kept_epoch =
  unpack(redis.call('HMGET', attach, 'epoch', 'holder', 'cursor', 'cursor_epoch'))
if cursor ~= '' and tonumber(epoch) > tonumber(kept_epoch or '0') then
  redis.call('HSET', attach, 'cursor', cursor, 'cursor_epoch', epoch)
  kept = cursor
end
redis.call('EXPIRE', attach, ttl)
if current == epoch then
  redis.call('HDEL', attach, 'holder')
elseif holder then
  redis.call('PUBLISH', prefix .. 'control:' .. holder,
    '{"released":{"session":"' .. session .. '","epoch":' .. epoch .. ',"cursor":"' .. (kept or '0-0') .. '"}}')
end
return 1
"#;

/// KEYS attach, meta, log. ARGV epoch, instance, ttl, prefix of names, session, '1' where the session took queries: a gateway still
/// has the session. Redis may have lost the last renewal. Returns the newest epoch.
const REATTACH: &str = r#"
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
-- Redis had lost this attachment, and an earlier holder said again that it has the session.
if holder and current ~= epoch then
  redis.call('PUBLISH', ARGV[4] .. 'control:' .. holder,
    '{"takeover":{"session":"' .. ARGV[5] .. '","epoch":' .. epoch .. '}}')
end
return epoch
"#;

/// KEYS attach. ARGV epoch, cursor, ttl, prefix of names, session: a gateway released this cursor. A holder with a smaller
/// epoch, which may have said before that it has the session, is told that it was taken over.
const RESTORE_CURSOR: &str = r#"
local attach, epoch = KEYS[1], ARGV[1]
local current, kept_epoch, holder = unpack(redis.call('HMGET', attach, 'epoch', 'cursor_epoch', 'holder'))
if tonumber(epoch) > tonumber(kept_epoch or '0') then
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
return 1
"#;

/// KEYS meta, log, the owner's running sessions. ARGV ttl, 'log' | 'pubsub', down channel, session, owner, '1' with the last
/// entries, closed, generation, prev, query, answer, running, past queries; then id and frame of each entry, oldest first.
/// A fence drops what lies between it and the position that it names; dropped events were acknowledged, and a gap entry
/// stands for them. A closed session's log is not marked here: others may know of a later query.
const RESTORE: &str = r#"
local meta, log, ours = KEYS[1], KEYS[2], KEYS[3]
local ttl, logged, down, session, owner = ARGV[1], ARGV[2] == 'log', ARGV[3], ARGV[4], ARGV[5]
local complete, closed, generation, prev, query, answer, runs =
  ARGV[6] == '1', ARGV[7] == '1', ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12] == '1'
local FIRST = 14
local function split(id)
  local g, s = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(g), tonumber(s)
end
local function above(g1, s1, g2, s2) return g1 > g2 or (g1 == g2 and s1 > s2) end
local function kind_of(frame) return string.match(frame, '^{"id":"[^"]*","type":"(%l+)"') end
local function fenced(frame)
  local g, s = string.match(frame, '^{"id":"[^"]*","type":"fence","prev":"(%d+)%-(%d+)"')
  if g then return tonumber(g), tonumber(s) end
end
local EVENTS = {token = true, done = true, error = true, gap = true}
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
  local merged, gaps, reach_g, reach_s, lost = {}, {}, nil, nil, nil
  local function announce()
    if not lost then return end
    local from = string.format('%.0f-%.0f', reach_g, reach_s)
    local frame = '{"id":"' .. lost[3] .. '","type":"gap","from":"' .. from .. '"}'
    merged[#merged + 1] = {lost[1], lost[2], lost[3], frame}
    if not (known[lost[3]] and lost[4] == frame) then gaps[#gaps + 1] = frame end
    lost = nil
  end
  for n = #entries, 1, -1 do
    local entry = entries[n]
    local kind = kind_of(entry[4])
    if reach_g and above(entry[1], entry[2], reach_g, reach_s) then
      if EVENTS[kind] then lost = lost or entry end
    else
      announce()
      if kind == 'fence' then reach_g, reach_s = fenced(entry[4]) end
      merged[#merged + 1] = entry
    end
  end
  announce()
  local same = #merged == #existing
  for n, entry in ipairs(existing) do
    same = same and merged[#merged + 1 - n][3] == entry[1] and merged[#merged + 1 - n][4] == entry[2][2]
  end
  if same then return end
  redis.call('DEL', log)
  for n = #merged, 1, -1 do redis.call('XADD', log, merged[n][3], 'e', merged[n][4]) end
  for _, frame in ipairs(gaps) do redis.call('PUBLISH', down, frame) end
end
if logged and ARGV[FIRST] then
  local top_g, top_s = top(log)
  top_g, top_s = tonumber(top_g), tonumber(top_s)
  -- What the log has needs no merge: only what is missing below its end does.
  local first = FIRST
  while ARGV[first] do
    local g, s = split(ARGV[first])
    if above(g, s, top_g, top_s) or not redis.call('XRANGE', log, ARGV[first], ARGV[first])[1] then break end
    first = first + 2
  end
  if ARGV[first] then
    local g, s = split(ARGV[first])
    local prev_g, prev_s = fenced(ARGV[first + 1])
    local unsure = kind_of(ARGV[first + 1]) == 'fence' and not prev_g
    local behind = (top_g == 0 and top_s == 0) or (g == top_g and s == top_s + 1)
      or (above(g, s, top_g, top_s) and (unsure or (prev_g and not above(top_g, top_s, prev_g, prev_s))))
    if behind then
      for n = first, #ARGV, 2 do redis.call('XADD', log, ARGV[n], 'e', ARGV[n + 1]) end
    else
      merge(first)
    end
  end
  redis.call('EXPIRE', log, ttl)
end
if not complete then return 1 end
local status, current, running, now_owner, current_query, past =
  unpack(redis.call('HMGET', meta, 'status', 'gen', 'running', 'owner', 'query', 'past'))
if closed then status = 'closed' elseif not status then status = 'active' end
redis.call('HSET', meta, 'status', status)
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
if tonumber(generation) > tonumber(current or '0') then
  redis.call('HSET', meta, 'gen', generation, 'prev', prev, 'query', query, 'answer', answer)
  running = runs
  if runs then redis.call('HSET', meta, 'running', '1', 'owner', owner)
  else redis.call('HDEL', meta, 'running', 'owner') end
elseif generation == current and not runs and running and now_owner == owner then
  redis.call('HDEL', meta, 'running', 'owner')
  running = false
end
if runs and generation == redis.call('HGET', meta, 'gen') and redis.call('HGET', meta, 'owner') == owner then
  redis.call('HSET', ours, session, generation)
  redis.call('EXPIRE', ours, ttl)
else
  runs_no_more(ours, session, generation)
end
redis.call('EXPIRE', meta, ttl)
if not logged then return 1 end
redis.call('EXPIRE', log, ttl)
local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
if last then redis.call('PUBLISH', down, last[2][2]) end
return 1
"#;

/// KEYS meta, log, the dead server's running sessions, servers, attach. ARGV the dead server, generation, session, the terminator's frame
/// behind its id, ttl, 'log' | 'pubsub', down channel, the heartbeat that stood still, '1' where logs are whole. Returns 1 where it ended the query,
/// 2 where the log of the session, which is closed, lacks its mark because it may not be whole.
const END_LOST_QUERY: &str = r#"
local meta, log = KEYS[1], KEYS[2]
local owner, generation, session, tail, ttl, logged, down =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6] == 'log', ARGV[7]
local beat = redis.call('HGET', KEYS[4], owner)
if beat and beat ~= ARGV[8] then return 0 end
-- First, so that a session whose keys cannot be read does not keep the dead server listed.
runs_no_more(KEYS[3], session, generation)
local status, current, running, now_owner = unpack(redis.call('HMGET', meta, 'status', 'gen', 'running', 'owner'))
if not running or current ~= generation or now_owner ~= owner then return 0 end
redis.call('HDEL', meta, 'running', 'owner')
redis.call('EXPIRE', meta, ttl)
redis.call('EXPIRE', KEYS[5], ttl)
-- Without a log only the gateway that sent the last event knows which one it was: sequence 0 stands for the next one.
if not logged then redis.call('PUBLISH', down, '{"id":"' .. generation .. '-0"' .. tail) end
if logged then
  -- The terminator of a log that is replaced has no known place: the fence announces that all before it is gone.
  local replaced = drop_unusable(log)
  local top_generation, top_seq = top(log)
  if tonumber(top_generation) <= tonumber(generation) then
    local seq = 1
    if top_generation == generation then seq = tonumber(top_seq) + 1 end
    local id = generation .. '-' .. string.format('%.0f', seq)
    local frame = '{"id":"' .. id .. '"' .. tail
    redis.call('XADD', log, id, 'e', frame)
    redis.call('PUBLISH', down, frame)
    fence(log, down, next_generation(generation), replaced and '' or id, logged)
  end
  redis.call('EXPIRE', log, ttl)
end
if status == 'closed' and not (logged and is_marked(log)) then
  if logged and ARGV[9] ~= '1' then return 2 end
  mark_closed(log, down, logged)
end
return 1
"#;

/// KEYS servers, the server's running sessions. ARGV server, the heartbeat that stood still: forgets it unless it lives after
/// all, or a call that came late has claimed a session for it.
const FORGET_SERVER: &str = r"
if redis.call('HLEN', KEYS[2]) > 0 then return 0 end
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then return redis.call('HDEL', KEYS[1], ARGV[1]) end
return 0
";

/// KEYS servers, the server's running sessions, mark. ARGV the server, the mark that it knows. Takes a server that has drained off
/// the list. Returns 0, and changes nothing, where a query is still claimed there or Redis has lost its data.
const LEAVE: &str = r"
if redis.call('GET', KEYS[3]) ~= ARGV[2] or redis.call('HLEN', KEYS[2]) > 0 then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
return 1
";

/// KEYS servers. ARGV the heartbeat that stands for none, then names: lists servers that Redis has lost.
const LIST_SERVERS: &str = r"
for n = 2, #ARGV do redis.call('HSETNX', KEYS[1], ARGV[n], ARGV[1]) end
return 1
";

/// KEYS servers. ARGV a server, its heartbeat, which begins with a number. A heartbeat that Redis executes after a later one
/// changes nothing.
pub(super) const HEARTBEAT: &str = r"
local function number_of(value) return tonumber(string.match(value or '', '^%d+')) end
local listed = number_of(redis.call('HGET', KEYS[1], ARGV[1]))
if not listed or listed < number_of(ARGV[2]) then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
return 1
";

pub(super) struct Scripts {
    pub(super) mark: Script,
    pub(super) claim: Script,
    pub(super) append: Script,
    pub(super) release_claim: Script,
    pub(super) close: Script,
    pub(super) attach: Script,
    pub(super) release: Script,
    pub(super) reattach: Script,
    pub(super) restore_cursor: Script,
    pub(super) restore: Script,
    pub(super) end_lost_query: Script,
    pub(super) forget_server: Script,
    pub(super) list_servers: Script,
    pub(super) leave: Script,
    pub(super) heartbeat: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            mark: Script::new(MARK),
            claim: Script::new(&[TOP, FENCE, PAST, ADOPT, CLAIM].concat()),
            append: Script::new(&[TOP, FENCE, NEXT_GENERATION, MARK_CLOSED, RUNS_NO_MORE, APPEND].concat()),
            release_claim: Script::new(&[RUNS_NO_MORE, RELEASE_CLAIM].concat()),
            close: Script::new(
                &[TOP, FENCE, DROP_UNUSABLE, NEXT_GENERATION, MARK_CLOSED, ADOPT, CLOSE].concat(),
            ),
            attach: Script::new(&[TOP, ATTACH].concat()),
            release: Script::new(RELEASE),
            reattach: Script::new(REATTACH),
            restore_cursor: Script::new(RESTORE_CURSOR),
            restore: Script::new(&[TOP, RUNS_NO_MORE, PAST, RESTORE].concat()),
            forget_server: Script::new(FORGET_SERVER),
            list_servers: Script::new(LIST_SERVERS),
            leave: Script::new(LEAVE),
            end_lost_query: Script::new(
                &[TOP, FENCE, DROP_UNUSABLE, NEXT_GENERATION, MARK_CLOSED, RUNS_NO_MORE, END_LOST_QUERY]
                    .concat(),
            ),
            heartbeat: Script::new(HEARTBEAT),
        }
    }
}

#[cfg(test)]
mod tests;
