-- Registers a node, renews its leases, drops what has expired, and returns all that lives.
--
-- KEYS: nodes, leases. ARGV: ttl in ms, most nodes, node, its incarnation, its entry, then for each lease held: shard,
-- epoch, lease. Returns {entries, {shard, lease, ...}}, or nil if there are too many nodes.
-- Values: "<expires> <entry>" and "<expires> <incarnation> <epoch> <lease>", in milliseconds of this server's clock.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ttl = tonumber(ARGV[1])
local expires = string.format('%.0f', now + ttl)

-- What expires later than anything written now was written by a clock that ran ahead.
local function live(key)
  local found = redis.call('HGETALL', key)
  local kept = {}
  for i = 1, #found, 2 do
    local at = tonumber(string.match(found[i + 1], '^(%d+) '))
    if at and at > now and at <= now + ttl then
      kept[found[i]] = found[i + 1]
    else
      redis.call('HDEL', key, found[i])
    end
  end
  return kept
end

local nodes, leases = live(KEYS[1]), live(KEYS[2])
local node, incarnation = ARGV[3], ARGV[4]
if not nodes[node] and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[2]) then
  return nil
end
nodes[node] = expires .. ' ' .. ARGV[5]
redis.call('HSET', KEYS[1], node, nodes[node])

for i = 6, #ARGV, 3 do
  local shard, epoch = ARGV[i], tonumber(ARGV[i + 1])
  local holder, led = string.match(leases[shard] or '', '^%d+ (%x+) (%d+) ')
  led = tonumber(led)
  if not holder or holder == incarnation or (led > 0 and led < epoch) then
    leases[shard] = expires .. ' ' .. incarnation .. ' ' .. ARGV[i + 1] .. ' ' .. ARGV[i + 2]
    redis.call('HSET', KEYS[2], shard, leases[shard])
  end
end
redis.call('PEXPIRE', KEYS[1], ttl)
redis.call('PEXPIRE', KEYS[2], ttl)

local entries, held = {}, {}
for _, value in pairs(nodes) do
  entries[#entries + 1] = string.match(value, '^%d+ (.*)$')
end
for shard, value in pairs(leases) do
  held[#held + 1] = shard
  held[#held + 1] = string.match(value, '^%d+ %x+ %d+ (.*)$') or ''
end
return {entries, held}
