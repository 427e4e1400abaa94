-- Orders every node to forget a channel's history, and deletes events of it from the log. ARGV:
-- channel; the id of the newest event, or '' if an earlier call has ordered the nodes already; the
-- id of the newest public event; `1` if a private event has several topics; the number of Redis
-- keys that follow; the Redis keys of the replies stored for repeats, which are deleted; the ids of
-- the events to delete.
--
-- An event with other topics stays in the log for those topics. The replies stored for the
-- client-supplied ids and idempotency keys of the events are deleted too, so these ids and keys may
-- be used again.
--
-- A channel that has ended goes on.
--
-- Once a node has read the order, its subscribers receive none of these events, not even those that
-- are still in the log.
local names = tonumber(ARGV[9])
for place = 10, 9 + names do redis.call('DEL', ARGV[place]) end
if ARGV[6] ~= '' then
  redis.call('DEL', 'threadcast:ended:' .. ARGV[5])
  local fields = { 'c', ARGV[5], 'f', ARGV[6], 'g', ARGV[7] }
  if ARGV[8] == '1' then
    fields[7], fields[8] = 'h', '1'
  end
  add(fields)
end
for place = 10 + names, #ARGV do
  local entry = redis.call('XRANGE', EVENTS, ARGV[place], ARGV[place])[1]
  local has_others = false
  for field = 1, entry and #entry[2] or 0, 2 do
    local what, value = entry[2][field], entry[2][field + 1]
    has_others = has_others or what == 'o'
    if what == 'i' then redis.call('DEL', 'threadcast:own:' .. ARGV[5] .. '\0' .. value) end
    if what == 'k' then redis.call('DEL', 'threadcast:key:' .. ARGV[5] .. '\0' .. value) end
  end
  if entry and not has_others then
    for field = 1, #entry[2], 2 do
      -- Record that this sequence number was deleted on purpose, so that no node takes it for a
      -- hole.
      if entry[2][field] == 'q' then
        redis.call('ZADD', DELETED, entry[2][field + 1], entry[2][field + 1])
      end
    end
    redis.call('XDEL', EVENTS, ARGV[place])
  end
end
return 1
