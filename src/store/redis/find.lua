-- Which events of a channel stand in a piece of the log. ARGV: channel, after which
-- id and up to which, and how many entries are looked at. Answers the last of these,
-- if there was any, and then the events: a private one with `p` behind its id, or with
-- `s` if it has several topics.
local entries = redis.call('XRANGE', EVENTS, '(' .. ARGV[6], ARGV[7], 'COUNT', ARGV[8])
local answer = { entries[1] and entries[#entries][1] }
for _, entry in ipairs(entries) do
  local is_of_it, forgets, private, several = false, false, false, false
  for field = 1, #entry[2], 2 do
    is_of_it = is_of_it or entry[2][field] == 'c' and entry[2][field + 1] == ARGV[5]
    forgets = forgets or entry[2][field] == 'f'
    private = private or entry[2][field] == 'p'
    several = several or entry[2][field] == 'o'
  end
  if is_of_it and not forgets then
    answer[#answer + 1] = entry[1] .. (private and (several and 's' or 'p') or '')
  end
end
return answer
