-- Takes a channel's events out of the log, and has every node forget them. ARGV:
-- channel, the newest of them, how many names follow, which may be used again,
-- and the events' ids. An event with other topics stays in the log, for them.
local names = tonumber(ARGV[7])
for place = 8, 7 + names do redis.call('DEL', ARGV[place]) end
for place = 8 + names, #ARGV do
  local entry = redis.call('XRANGE', EVENTS, ARGV[place], ARGV[place])[1]
  local has_others = false
  for field = 1, entry and #entry[2] or 0, 2 do
    has_others = has_others or entry[2][field] == 'o'
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
return add({ 'c', ARGV[5], 'f', ARGV[6] })
