-- Reads the mark, and makes a new one if there is none or if Redis was started again: in both cases Redis may have lost data.
--
-- KEYS  the mark, the run id that the mark was made for.
-- ARGV  a unique name for a new mark, the run id of this Redis process.
-- Returns the mark '<uuid>:<Redis ms>' and Redis' time in milliseconds.
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local mark = redis.call('GET', KEYS[1])
if not mark or redis.call('GET', KEYS[2]) ~= ARGV[2] then
  mark = ARGV[1] .. ':' .. now
  redis.call('SET', KEYS[1], mark)
  redis.call('SET', KEYS[2], ARGV[2])
end
return {mark, now}
