-- Records the names that join or leave on a node. ARGV: node, time of day, and for each name two
-- arguments: `+` (joins) or `-` (leaves), and CHANNEL\0NAME.
for place = 7, #ARGV, 2 do
  local change = ARGV[place] == '+' and join or leave
  change(ARGV[5], ARGV[place + 1], ARGV[6])
end
