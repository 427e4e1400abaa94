-- Evicts the calling node. ARGV: node, time of day.
evict_node(ARGV[5], ARGV[6])
