-- Drops the entry of a node and all leases of one incarnation of it.
--
-- KEYS: nodes, leases. ARGV: node, incarnation. An entry of another incarnation stays: the node has come back.
local entry = redis.call('HGET', KEYS[1], ARGV[1])
if entry and string.find(entry, ARGV[2], 1, true) then
  redis.call('HDEL', KEYS[1], ARGV[1])
end
local leases = redis.call('HGETALL', KEYS[2])
for i = 1, #leases, 2 do
  if string.match(leases[i + 1], '^%d+ (%x+) ') == ARGV[2] then
    redis.call('HDEL', KEYS[2], leases[i])
  end
end
return 1
