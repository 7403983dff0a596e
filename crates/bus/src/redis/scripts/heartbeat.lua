-- Writes a server's heartbeat. A heartbeat that Redis executes after a later one changes nothing.
--
-- KEYS  the servers.
-- ARGV  server, its heartbeat, which begins with a number that grows with every write.
-- Returns 1.
local function number_of(value) return tonumber(string.match(value or '', '^%d+')) end
local listed = number_of(redis.call('HGET', KEYS[1], ARGV[1]))
if not listed or listed < number_of(ARGV[2]) then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
return 1
