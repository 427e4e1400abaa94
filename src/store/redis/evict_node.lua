-- A node says goodbye. ARGV: node, time of day.
evict_node(ARGV[5], ARGV[6])
