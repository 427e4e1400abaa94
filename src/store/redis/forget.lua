-- Orders every node to forget a channel, and deletes its events from the log. ARGV: channel;
-- the newest of the events, or '' if an earlier call has ordered the nodes already; the
-- newest public one; `1` if a private one has several topics; the number of keys for
-- repeats that follow; these keys, which are deleted; the ids of the events to delete.
--
-- An event with other topics stays in the log for them. The client-supplied ids and
-- idempotency keys of the events are deleted too, so they may be used again.
--
-- From the order on, no subscriber receives any of the events, even those that are not yet
-- deleted.
local names = tonumber(ARGV[9])
for place = 10, 9 + names do redis.call('DEL', ARGV[place]) end
if ARGV[6] ~= '' then
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
      -- Note the sequence number as deleted on purpose, so that it is not taken for a hole.
      if entry[2][field] == 'q' then
        redis.call('ZADD', DELETED, entry[2][field + 1], entry[2][field + 1])
      end
    end
    redis.call('XDEL', EVENTS, ARGV[place])
  end
end
return 1
