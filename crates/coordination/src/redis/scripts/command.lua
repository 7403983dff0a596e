-- Appends a command, once: a number that the stream has is skipped.
--
-- KEYS  the run, its commands.
-- ARGV  leader, TTL in ms, number, 'abort' | 'custom', bytes.
-- Returns a reason why the process may not lead (lib.lua) or {'ok'}.
local refused = not_leading(KEYS[1], ARGV[1])
if refused then return refused end
if tonumber(ARGV[3]) > last_number(KEYS[2]) then redis.call('XADD', KEYS[2], ARGV[3] .. '-0', ARGV[4], ARGV[5]) end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return {'ok'}
