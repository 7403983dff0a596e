-- Functions on a session's log, shared by scripts. `logged` is false under DELIVERY=pubsub: then nothing is written to the log.

-- Returns generation and sequence of the log's last entry as strings, '0' and '0' for an empty log.
local function top(log)
  local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)
  if not last[1] then return '0', '0' end
  return string.match(last[1][1], '^(%d+)-(%d+)$')
end

-- Deletes the log's key if it holds something other than a stream, because nothing can be delivered from it or added to it.
-- Returns whether it was deleted.
local function delete_unusable(log)
  local kind = redis.call('TYPE', log).ok
  if kind == 'stream' or kind == 'none' then return false end
  redis.call('DEL', log)
  return true
end

-- Returns the generation of the next fence: above `generation`, and at least Redis' time in milliseconds.
local function next_generation(generation)
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  return string.format('%.0f', math.max(tonumber(generation or '0') + 1, now))
end

-- Writes and publishes a fence, which shuts out every earlier writer. `prev` is the last position before the fence, '' if
-- that position is not known.
local function fence(log, down, generation, prev, logged)
  local quoted = prev == '' and 'null' or '"' .. prev .. '"'
  local frame = '{"id":"' .. generation .. '-0","type":"fence","prev":' .. quoted .. '}'
  if logged then redis.call('XADD', log, generation .. '-0', 'e', frame) end
  redis.call('PUBLISH', down, frame)
end

-- Returns whether the log's last entry is the `closed` entry.
local function has_closed_entry(log)
  local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  return last and string.find(last[2][2], '","type":"closed"', 1, true)
end

-- Writes and publishes the `closed` entry, which ends the log of a closed session. It follows a fence whose generation is at
-- least Redis' time. Reason: lanes may have received a claim that Redis has lost since and that no server remembers. They would
-- ignore a `closed` entry below that claim's generation as one that they have seen.
local function write_closed_entry(log, down, logged)
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
