-- Restores what a generator knows of its claim and of the run, after Redis has lost its data.
--
-- KEYS  the run.
-- ARGV  shard, token, host, fingerprint, number of generators, longest round trip in us or '' if not ready, start or '',
--       leader or '', TTL in ms. That it has finished comes with its report.
-- Returns {'ok'}, or {'replaced'} if another run or generator has the place.
local run, shard, token = KEYS[1], ARGV[1], ARGV[2]
local fingerprint, holder = unpack(redis.call('HMGET', run, 'fingerprint', 'token:' .. shard))
if fingerprint and fingerprint ~= ARGV[4] or holder and holder ~= token then return {'replaced'} end
redis.call('HSET', run, 'fingerprint', ARGV[4], 'generators', ARGV[5], 'token:' .. shard, token, 'host:' .. shard, ARGV[3],
  'seen:' .. shard, now_ms())
redis.call('HSETNX', run, 'heartbeat:' .. shard, '0')
if ARGV[6] ~= '' then redis.call('HSET', run, 'rtt:' .. shard, ARGV[6]) end
if ARGV[7] ~= '' then redis.call('HSETNX', run, 'start', ARGV[7]) end
if ARGV[8] ~= '' then set_leader(run, ARGV[8]) end
redis.call('PEXPIRE', run, ARGV[9])
return {'ok'}
