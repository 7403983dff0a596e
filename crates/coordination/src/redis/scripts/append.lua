-- Appends messages to a generator's stream, each once: a number that the stream has is skipped.
--
-- KEYS  the run, the generator's parts.
-- ARGV  shard, token, TTL in ms, number of the last message that the generator knows to be in the stream, number of the oldest message
--       that it still has; then triples: number, 'part' | 'report', bytes.
-- Returns a refusal (lib.lua), {'ok', number of the stream's last message}, or {'behind', that number}: the stream has lost messages,
-- nothing was appended, and the generator can send some of them again.
local run, parts, shard = KEYS[1], KEYS[2], ARGV[1]
local refused = refusal(run, shard, ARGV[2])
if refused then return refused end
local last, delivered = last_number(parts), tonumber(ARGV[4])
if last < delivered and tonumber(ARGV[5]) <= delivered then return {'behind', last} end
for n = 6, #ARGV, 3 do
  local number, kind = tonumber(ARGV[n]), ARGV[n + 1]
  if number > last then
    redis.call('XADD', parts, ARGV[n] .. '-0', kind, ARGV[n + 2])
    last = number
  end
  if kind == 'report' then redis.call('HSET', run, 'finished:' .. shard, '1') end
end
redis.call('PEXPIRE', parts, ARGV[3])
return {'ok', last}
