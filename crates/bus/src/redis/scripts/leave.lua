-- Removes a server that has drained from the list.
--
-- KEYS  the servers, the server's running queries, the mark.
-- ARGV  server, the mark that it knows.
-- Returns 1. Returns 0 and changes nothing if a query is still claimed by the server, or if Redis has lost its data.
if redis.call('GET', KEYS[3]) ~= ARGV[2] or redis.call('HLEN', KEYS[2]) > 0 then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
return 1
