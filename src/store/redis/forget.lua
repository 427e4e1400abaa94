-- Has every node forget a channel's history. ARGV: channel, and the names of its
-- events, which may be used again.
for place = 6, #ARGV do redis.call('DEL', ARGV[place]) end
return add({ 'c', ARGV[5], 'f', '1' })
