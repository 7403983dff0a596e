-- Claims an active, idle session for a query, and fences off every earlier writer.
--
-- KEYS  meta, log, attach, the owner's running queries, the mark, the servers.
-- ARGV  query id, answer to store for repeats, owner, TTL in seconds, number of log entries of earlier queries to keep,
--       'log' | 'pubsub', down channel, session, the mark that the owner knows, the last generation that the owner knows,
--       '1' if logs are complete (every server has restored), '1' if the mark is old.
-- Returns {outcome, generation, position before the generation or '' if unknown, stored answer or mark}:
--   'claimed'    the session is the owner's
--   'repeat'     the last claim was for the same query; the fourth value is the answer stored with it
--   'other_mark' Redis has lost its data; the fourth value is its mark, nothing was changed
--   'unlisted'   the hash of servers lacks the owner
--   'unknown', 'past', 'closed', 'busy'   no such session, an earlier query, session closed, another query is running
local meta, log, attach, running_hash = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local query, answer, owner, ttl, keep, logged, down, session =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6] == 'log', ARGV[7], ARGV[8]
local mark = redis.call('GET', KEYS[5]) or ''
if mark ~= ARGV[9] then return {'other_mark', '0', '', mark} end
local status, last_query, last_generation, last_prev, last_answer, running, past, held =
  unpack(redis.call('HMGET', meta, 'status', 'query', 'gen', 'prev', 'answer', 'running', 'past', 'held'))
if not status and held and adopt(meta, ARGV[12] == '1') then status = 'active' end
if redis.call('HEXISTS', KEYS[6], owner) == 0 then return {'unlisted', '0', '', ''} end
if not status then return {'unknown', '0', '', ''} end
if last_query == query then return {'repeat', last_generation, last_prev or '', last_answer} end
if is_past(past, query) then return {'past', '0', '', ''} end
if status ~= 'active' then return {'closed', '0', '', ''} end
if running then return {'busy', '0', '', ''} end
local top_generation, top_seq = '0', '0'
if logged then top_generation, top_seq = top(log) end
-- The time keeps generations growing even if Redis has lost the last ones.
local time = redis.call('TIME')
local generation = math.max(
  tonumber(last_generation or '0') + 1, tonumber(top_generation) + 1, tonumber(ARGV[10]) + 1,
  time[1] * 1000 + math.floor(time[2] / 1000))
generation = string.format('%.0f', generation)
-- While a server still restores, the log may lack its last acknowledged position: then the fence names none.
local prev = ARGV[11] == '1' and top_generation .. '-' .. top_seq or ''
if logged then redis.call('XTRIM', log, 'MAXLEN', keep) end
fence(log, down, generation, prev, logged)
if last_query then
  redis.call('HSET', meta, 'gen', generation, 'prev', prev, 'query', query, 'answer', answer, 'running', '1', 'owner', owner,
    'past', add_past(past, last_generation, last_query))
else
  redis.call('HSET', meta, 'gen', generation, 'prev', prev, 'query', query, 'answer', answer, 'running', '1', 'owner', owner)
end
redis.call('HSET', running_hash, session, generation)
if is_due(meta, ttl) then
  renew(meta, log, attach, ttl)
elseif logged and top_generation == '0' then
  -- The fence has created the log.
  redis.call('EXPIRE', log, ttl)
end
-- The owner's heartbeats renew the hash. This call may have created it.
if redis.call('HLEN', running_hash) == 1 then redis.call('EXPIRE', running_hash, ttl) end
return {'claimed', generation, prev, ''}
