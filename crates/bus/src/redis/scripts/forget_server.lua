-- Removes a dead server from the list. Does nothing if its heartbeat has changed, because it is alive then, or if a late call
-- has claimed a session for it.
--
-- KEYS  the servers, the server's running queries.
-- ARGV  server, the heartbeat that did not change.
-- Returns 1 if the server was removed, 0 otherwise.
if redis.call('HLEN', KEYS[2]) > 0 then return 0 end
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then return redis.call('HDEL', KEYS[1], ARGV[1]) end
return 0
