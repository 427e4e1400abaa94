-- Renews the report of a node. ARGV: node, time of day, the validity of the report in milliseconds,
-- the report, and `1` if all names present on the node follow (as CHANNEL\0NAME). Returns 1 if
-- Redis still knew the node, or 0 if the node is new or was evicted.
local node, time, expiry, report = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local known = redis.call('ZSCORE', NODES, node) and 1 or 0
if ARGV[9] == '1' then
  local here = {}
  for place = 10, #ARGV do here[ARGV[place]] = true end
  for _, member in ipairs(redis.call('SMEMBERS', 'threadcast:names:' .. node)) do
    if not here[member] then leave(node, member, time) end
  end
  for place = 10, #ARGV do join(node, ARGV[place], time) end
end
redis.call('ZADD', NODES, number(now + tonumber(expiry)), node)
local key = 'threadcast:node:' .. node
if redis.call('GET', key) ~= report then redis.call('INCR', ROWS) end
redis.call('SET', key, report, 'PX', expiry)
return known
