-- Functions on a session's earlier queries, shared by scripts. The meta hash stores them as a JSON list of
-- '<generation> <query id>', oldest first. An entry in Lua is {generation, query id, stored text}.

-- Number of earlier queries that a session remembers: `PAST_QUERIES` in rules/claim.rs.
local MAX_PAST = 8

local function read_past(json)
  local past = cjson.decode(json or '[]')
  for n, text in ipairs(past) do
    local generation, query = string.match(text, '^(%d+) (.*)$')
    -- Earlier versions stored the query id alone.
    if query then past[n] = {tonumber(generation), query, text} else past[n] = {0, text, '0 ' .. text} end
  end
  return past
end

-- Stores the newest MAX_PAST entries.
local function write_past(meta, past)
  local texts = {}
  for n = math.max(1, #past - MAX_PAST + 1), #past do texts[#texts + 1] = past[n][3] end
  if #texts > 0 then redis.call('HSET', meta, 'past', cjson.encode(texts)) end
end

-- Returns whether a stored list has a query. Searches the text, because decoding the list costs a multiple.
local function is_past(json, query)
  if not json then return false end
  local quoted = cjson.encode(query)
  -- Earlier versions stored the query id alone.
  if not (string.find(json, ' ' .. string.sub(quoted, 2), 1, true) or string.find(json, quoted, 1, true)) then return false end
  -- The text may be the end of another query id.
  for _, earlier in ipairs(read_past(json)) do
    if earlier[2] == query then return true end
  end
  return false
end

-- Returns a stored list with one more query, and without the oldest one if there are too many. `","` is never inside an entry,
-- where each quotation mark follows a backslash.
local function add_past(json, generation, query)
  local entry = cjson.encode(generation .. ' ' .. query)
  if not json or json == '[]' then return '[' .. entry .. ']' end
  local separators, at, first = 0, 1, nil
  repeat
    at = string.find(json, '","', at, true)
    if at then separators, at, first = separators + 1, at + 3, first or at end
  until not at
  local kept = separators + 1 < MAX_PAST and json or '[' .. string.sub(json, first + 2)
  return string.sub(kept, 1, -2) .. ',' .. entry .. ']'
end

local function past_query(generation, query) return {tonumber(generation), query, generation .. ' ' .. query} end
