-- Says that a node is there and who listens to it. ARGV: node, time of day, for
-- how many milliseconds that holds, the row, and `1` if all the names follow that
-- are present there. Answers whether the others had not given it up.
local node, time, holds, row = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local known = redis.call('ZSCORE', NODES, node) and 1 or 0
if ARGV[9] == '1' then
  local here = {}
  for place = 10, #ARGV do here[ARGV[place]] = true end
  for _, member in ipairs(redis.call('SMEMBERS', 'threadcast:names:' .. node)) do
    if not here[member] then leave(node, member, time) end
  end
  for place = 10, #ARGV do come(node, ARGV[place], time) end
end
redis.call('ZADD', NODES, number(now + tonumber(holds)), node)
local key = 'threadcast:node:' .. node
if redis.call('GET', key) ~= row then redis.call('INCR', ROWS) end
redis.call('SET', key, row, 'PX', holds)
return known
