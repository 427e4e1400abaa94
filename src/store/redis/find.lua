-- Finds a channel's events in a part of the log. ARGV: channel, the id after which the part begins,
-- the last id of the part, the maximum number of entries to examine. Returns the id of the last
-- entry examined, if any, and then the ids of the events. An id has the suffix `p` if its event is
-- private, or `s` if its event is private and has several topics.
local entries = redis.call('XRANGE', EVENTS, '(' .. ARGV[6], ARGV[7], 'COUNT', ARGV[8])
local answer = { entries[1] and entries[#entries][1] }
for _, entry in ipairs(entries) do
  local of_channel, forgets, private, several = false, false, false, false
  for field = 1, #entry[2], 2 do
    of_channel = of_channel or entry[2][field] == 'c' and entry[2][field + 1] == ARGV[5]
    forgets = forgets or entry[2][field] == 'f'
    private = private or entry[2][field] == 'p'
    several = several or entry[2][field] == 'o'
  end
  if of_channel and not forgets then
    answer[#answer + 1] = entry[1] .. (private and (several and 's' or 'p') or '')
  end
end
return answer
