-- A name comes to a node or leaves it. ARGV: node, time of day, and for each
-- `+` or `-` and CHANNEL\0NAME.
for place = 7, #ARGV, 2 do
  local change = ARGV[place] == '+' and come or leave
  change(ARGV[5], ARGV[place + 1], ARGV[6])
end
