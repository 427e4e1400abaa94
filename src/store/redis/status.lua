-- Evicts the nodes whose report has expired, and returns the status of the log: its newest sequence
-- number, its newest id, the milliseconds since 1970, the version of the reports, and the number of
-- evicted nodes. If the caller has another version of the reports, the reports of the other nodes
-- follow. ARGV: node, time of day, the caller's version of the reports.
begin()
trim()
local expired = redis.call('ZRANGEBYSCORE', NODES, '-inf', number(now))
for _, node in ipairs(expired) do
  evict_node(node, ARGV[6])
end
local last = '0-0'
if redis.call('EXISTS', EVENTS) == 1 then
  local info = redis.call('XINFO', 'STREAM', EVENTS)
  for place = 1, #info, 2 do
    if info[place] == 'last-generated-id' then last = info[place + 1] end
  end
end
if redis.call('EXISTS', DELETED) == 1 then
  local first = redis.call('XRANGE', EVENTS, '-', '+', 'COUNT', 1)[1]
  for field = 1, first and #first[2] or 0, 2 do
    if first[2][field] == 'q' then
      redis.call('ZREMRANGEBYSCORE', DELETED, '-inf', '(' .. first[2][field + 1])
    end
  end
end
local version = redis.call('GET', ROWS) or '0'
local answer = { redis.call('GET', SEQ), last, number(now), version, tostring(#expired) }
if version ~= ARGV[7] then
  for _, node in ipairs(redis.call('ZRANGE', NODES, 0, -1)) do
    local report = node ~= ARGV[5] and redis.call('GET', 'threadcast:node:' .. node)
    if report then answer[#answer + 1] = report end
  end
end
return answer
