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

/// Marks the end of a closed session behind all its events.
const MARK_CLOSED: &str = r#"
local function mark_closed(log, down, logged)
  local generation, seq = '0', '0'
  if logged then generation, seq = top(log) end
  local id = generation .. '-' .. string.format('%.0f', tonumber(seq) + 1)
  local frame = '{"id":"' .. id .. '","type":"closed"}'
  if logged then redis.call('XADD', log, id, 'e', frame) end
  redis.call('PUBLISH', down, frame)
end
"#;

/// KEYS meta, log, attach. ARGV query, answer, owner, ttl, entries kept, 'log' | 'pubsub', down channel.
const CLAIM: &str = r#"
local meta, log = KEYS[1], KEYS[2]
local query, answer, owner, ttl, keep, logged, down = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6] == 'log', ARGV[7]
local status, last_query, last_generation, last_answer, running =
  unpack(redis.call('HMGET', meta, 'status', 'query', 'gen', 'answer', 'running'))
if not status then return {'unknown', '0', ''} end
if last_query == query then return {'repeat', last_generation, last_answer} end
if status ~= 'active' then return {'closed', '0', ''} end
if running then return {'busy', '0', ''} end
local top_generation, top_seq = '0', '0'
if logged then top_generation, top_seq = top(log) end
local time = redis.call('TIME')
local generation = math.max(
  tonumber(last_generation or '0') + 1, tonumber(top_generation) + 1, time[1] * 1000 + math.floor(time[2] / 1000))
generation = string.format('%.0f', generation)
local frame = '{"id":"' .. generation .. '-0","type":"fence","prev":"' .. top_generation .. '-' .. top_seq .. '"}'
if logged then
  redis.call('XTRIM', log, 'MAXLEN', keep)
  redis.call('XADD', log, generation .. '-0', 'e', frame)
  redis.call('EXPIRE', log, ttl)
end
redis.call('HSET', meta, 'gen', generation, 'query', query, 'answer', answer, 'running', '1', 'owner', owner)
redis.call('EXPIRE', meta, ttl)
redis.call('EXPIRE', KEYS[3], ttl)
redis.call('PUBLISH', down, frame)
return {'claimed', generation, ''}
"#;

/// KEYS meta, log, attach. ARGV generation, id, frame, ttl, 'log' | 'pubsub', down channel.
/// Answers how many heard it, or -1 where a later generation exists.
const TERMINATE: &str = r"
local meta, log = KEYS[1], KEYS[2]
local generation, id, frame, ttl, logged, down = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5] == 'log', ARGV[6]
local status, current, running = unpack(redis.call('HMGET', meta, 'status', 'gen', 'running'))
if current and current ~= generation then return -1 end
if logged then
  local added = redis.pcall('XADD', log, id, 'e', frame)
  if type(added) == 'table' and added.err then
    if not string.find(added.err, 'equal or smaller', 1, true) then return redis.error_reply(added.err) end
    local top_generation = top(log)
    if tonumber(top_generation) > tonumber(generation) then return -1 end
  end
  redis.call('EXPIRE', log, ttl)
end
local heard = redis.call('PUBLISH', down, frame)
redis.call('EXPIRE', meta, ttl)
redis.call('EXPIRE', KEYS[3], ttl)
if running then
  redis.call('HDEL', meta, 'running', 'owner')
  if status == 'closed' then mark_closed(log, down, logged) end
end
return heard
";

/// KEYS meta, log. ARGV prefix of names, session, ttl, 'log' | 'pubsub', down channel. Answers 0 for an unknown session.
const CLOSE: &str = r#"
local meta, log = KEYS[1], KEYS[2]
local prefix, session, ttl, logged, down = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == 'log', ARGV[5]
local status, running, owner, generation = unpack(redis.call('HMGET', meta, 'status', 'running', 'owner', 'gen'))
if not status then return 0 end
redis.call('HSET', meta, 'status', 'closed')
redis.call('EXPIRE', meta, ttl)
if running then
  redis.call('PUBLISH', prefix .. 'control:' .. owner,
    '{"cancel":{"session":"' .. session .. '","generation":' .. generation .. '}}')
elseif status ~= 'closed' then
  mark_closed(log, down, logged)
  redis.call('EXPIRE', log, ttl)
end
return 1
"#;

/// KEYS attach. ARGV prefix of names, session, ttl, instance. Answers epoch, how many were told, cursor.
const ATTACH: &str = r#"
local attach = KEYS[1]
local prefix, session, ttl, instance = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local holder, cursor = unpack(redis.call('HMGET', attach, 'holder', 'cursor'))
local epoch = redis.call('HINCRBY', attach, 'epoch', 1)
redis.call('HSET', attach, 'holder', instance)
redis.call('EXPIRE', attach, ttl)
local told = 0
if holder then
  told = redis.call('PUBLISH', prefix .. 'control:' .. holder,
    '{"takeover":{"session":"' .. session .. '","epoch":' .. epoch .. '}}')
end
return {epoch, told, cursor or '0-0'}
"#;

/// KEYS attach. ARGV prefix of names, session, ttl, epoch, cursor or ''.
const RELEASE: &str = r#"
local attach = KEYS[1]
local prefix, session, ttl, epoch, cursor = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local current, holder, kept, kept_epoch =
  unpack(redis.call('HMGET', attach, 'epoch', 'holder', 'cursor', 'cursor_epoch'))
if cursor ~= '' and epoch > tonumber(kept_epoch or '0') then
  redis.call('HSET', attach, 'cursor', cursor, 'cursor_epoch', epoch)
  kept = cursor
end
redis.call('EXPIRE', attach, ttl)
if tonumber(current or '0') == epoch then
  redis.call('HDEL', attach, 'holder')
elseif holder then
  redis.call('PUBLISH', prefix .. 'control:' .. holder,
    '{"released":{"session":"' .. session .. '","epoch":' .. epoch .. ',"cursor":"' .. (kept or '0-0') .. '"}}')
end
return 1
"#;

pub(super) struct Scripts {
    pub(super) claim: Script,
    pub(super) terminate: Script,
    pub(super) close: Script,
    pub(super) attach: Script,
    pub(super) release: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            claim: Script::new(&[TOP, CLAIM].concat()),
            terminate: Script::new(&[TOP, MARK_CLOSED, TERMINATE].concat()),
            close: Script::new(&[TOP, MARK_CLOSED, CLOSE].concat()),
            attach: Script::new(ATTACH),
            release: Script::new(RELEASE),
        }
    }
}
