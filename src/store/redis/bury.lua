-- A node says goodbye. ARGV: node, time of day.
bury(ARGV[5], ARGV[6])
