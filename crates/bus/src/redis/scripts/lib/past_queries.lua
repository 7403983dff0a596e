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

local function past_query(generation, query) return {tonumber(generation), query, generation .. ' ' .. query} end
