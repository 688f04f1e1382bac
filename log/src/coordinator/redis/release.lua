-- Drops a lease that an incarnation holds.
--
-- KEYS: leases. ARGV: incarnation, shard.
local holder = string.match(redis.call('HGET', KEYS[1], ARGV[2]) or '', '^%d+ (%x+) ')
if holder == ARGV[1] then
  redis.call('HDEL', KEYS[1], ARGV[2])
end
return 1
