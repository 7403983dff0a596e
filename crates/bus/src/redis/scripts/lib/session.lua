-- Functions on a session's keys, on its status, and on a server's hash of running queries, shared by scripts.

-- Returns whether a session's keys are to be renewed: less than four fifths of their TTL remain to the meta hash, or it is missing.
-- Whatever renews the meta hash has renewed the other keys too, so none of them expires before it.
local function is_due(meta, ttl) return redis.call('TTL', meta) < ttl * 0.8 end

-- Gives the session's keys their full TTL.
local function renew(meta, log, attach, ttl)
  redis.call('EXPIRE', meta, ttl)
  redis.call('EXPIRE', log, ttl)
  redis.call('EXPIRE', attach, ttl)
end

-- How long the keys of a session that is over live, in seconds: `OVER` in rules/expiry.rs.
local OVER = 60

-- Returns whether a session is over: closed and idle, and its last socket ended cleanly, after it had received all before the `closed`
-- entry. `pcall`: a key of the wrong type must not keep a gateway from its release.
local function is_over(meta, log, attach)
  local state = redis.pcall('HMGET', meta, 'status', 'running', 'owner', 'gen')
  if state.err or state[1] ~= 'closed' or state[2] or state[3] then return false end
  local attached = redis.pcall('HMGET', attach, 'holder', 'cursor', 'epoch', 'cursor_epoch')
  if attached.err or attached[1] then return false end
  local last = redis.pcall('XREVRANGE', log, '+', '-', 'COUNT', 2)
  if last.err then return false end
  if not last[1] then return true end
  if not last[2] or not string.find(last[1][2][2], '","type":"closed"', 1, true) then return false end
  local g, s = string.match(last[2][2][2], '"type":"fence","prev":"(%d+)%-(%d+)"')
  if not g or (attached[3] or '0') ~= (attached[4] or '0') then return false end
  -- A fence behind position 0 although there were queries: the log was lost.
  if g == '0' and s == '0' and state[4] then return false end
  local cursor_g, cursor_s = string.match(attached[2] or '0-0', '^(%d+)-(%d+)$')
  g, s, cursor_g, cursor_s = tonumber(g), tonumber(s), tonumber(cursor_g), tonumber(cursor_s)
  return cursor_g > g or (cursor_g == g and cursor_s >= s)
end

-- Lets the keys of a session that is over expire soon. Its log can be large, and is no longer needed.
local function forget_if_over(meta, log, attach, ttl)
  if is_over(meta, log, attach) then renew(meta, log, attach, math.min(OVER, ttl)) end
end

-- Makes a session active that only a gateway has restored ('held'). Requires an old mark: until then the server that knows the
-- session may still restore it. Returns whether the session has become active.
local function adopt(meta, old)
  if old and redis.call('HEXISTS', meta, 'status') == 0 and redis.call('HEXISTS', meta, 'held') == 1 then
    redis.call('HSET', meta, 'status', 'active')
    return true
  end
  return false
end

-- Removes the session's query from a server's hash of running queries, unless the hash names a later query of the session: this
-- call may be late or a repeat.
local function remove_running(running_hash, session, generation)
  local listed = redis.call('HGET', running_hash, session)
  if listed and tonumber(listed) <= tonumber(generation) then redis.call('HDEL', running_hash, session) end
end

-- Removes a query as `remove_running` does, unless the listed query is the session's last one and that one has an owner: it is
-- running, or its server is to write the `closed` entry.
local function remove_ended(meta, running_hash, session, generation)
  local last, owner = unpack(redis.call('HMGET', meta, 'gen', 'owner'))
  if owner and redis.call('HGET', running_hash, session) == (last or '0') then return end
  remove_running(running_hash, session, generation)
end

-- Makes a server responsible for the `closed` entry that the log of a closed, idle session lacks.
local function list_for_end(meta, running_hash, session, generation, server, ttl)
  redis.call('HSET', meta, 'owner', server)
  redis.call('HSET', running_hash, session, generation or '0')
  redis.call('EXPIRE', running_hash, ttl)
end
