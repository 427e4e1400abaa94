-- Has every node forget a channel, and takes its events out of the log. ARGV: channel;
-- the newest of the events, or nothing if the nodes have been told already; the newest
-- public one, and `1` if a private one has several topics; how many names follow, which
-- may be used again, and the events' ids. An event with other topics stays in the log,
-- for them. What the publishers called the events may be used again as well.
--
-- Once the nodes are told, no reader is given any of it, however much of it is deleted yet.
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
      -- Its place in the log is no hole: it was meant.
      if entry[2][field] == 'q' then
        redis.call('ZADD', DELETED, entry[2][field + 1], entry[2][field + 1])
      end
    end
    redis.call('XDEL', EVENTS, ARGV[place])
  end
end
return 1
