-- Gives a lease to a node that takes the shard over, if it is absent or held by one of the incarnations named.
--
-- KEYS: leases. ARGV: ttl in ms, shard, the holder-to-be, its lease, incarnations that give way. Returns 1 or 0.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ttl = tonumber(ARGV[1])
local at, holder = string.match(redis.call('HGET', KEYS[1], ARGV[2]) or '', '^(%d+) (%x+) ')
at = tonumber(at)
local free = not at or at <= now or at > now + ttl
for i = 5, #ARGV do
  free = free or holder == ARGV[i]
end
if not free then
  return 0
end
local value = string.format('%.0f', now + ttl) .. ' ' .. ARGV[3] .. ' 0 ' .. ARGV[4]
redis.call('HSET', KEYS[1], ARGV[2], value)
redis.call('PEXPIRE', KEYS[1], ttl)
return 1
