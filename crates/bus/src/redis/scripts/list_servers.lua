-- Lists servers again that Redis has lost.
--
-- KEYS  the servers.
-- ARGV  the value of a server without a heartbeat, then the names of the servers.
-- Returns 1.
for n = 2, #ARGV do redis.call('HSETNX', KEYS[1], ARGV[n], ARGV[1]) end
return 1
