-- The common part of all scripts. Redis runs each script atomically, so no node sees an
-- intermediate state of another node's script.
--
--  threadcast:events              stream  the log: every event of every channel
--  threadcast:seq                 number  the sequence number of the newest entry
--  threadcast:deleted             zset    sequence numbers of deleted entries
--  threadcast:own:CHANNEL\0ID     reply   an event with a client-supplied id
--  threadcast:key:CHANNEL\0KEY    reply   a request with an idempotency key, and its fingerprint
--  threadcast:ended:CHANNEL       id      the last event of a channel that has ended
--  threadcast:nodes               zset    every node, with the time at which its report expires
--  threadcast:node:NODE           JSON    the report of a node: its subscribers; it expires
--  threadcast:names:NODE          set     CHANNEL\0NAME of every name present on the node
--  threadcast:at:CHANNEL\0NAME    set     the nodes on which the name is present
--  threadcast:rows                number  the version of the reports: counts their changes
--
-- Every entry of the log has a sequence number. The numbers are consecutive. So a missing number
-- that is not in threadcast:deleted shows that Redis has lost an entry.
--
-- ARGV begins with: the id after the newest that the caller has read; the milliseconds of
-- that id; the maximum number of entries in the log; their maximum age in milliseconds.
if redis.replicate_commands then redis.replicate_commands() end -- required by Redis 6

local EVENTS, SEQ, DELETED = 'threadcast:events', 'threadcast:seq', 'threadcast:deleted'
local NODES, ROWS = 'threadcast:nodes', 'threadcast:rows'
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function number(n) return string.format('%.0f', n) end

-- If Redis is empty, starts the sequence numbers at the microseconds since 1970. So if Redis was
-- emptied, no node takes the new numbers for a continuation of the old ones.
local function begin()
  if redis.call('EXISTS', SEQ) == 0 then
    redis.call('SET', SEQ, number(clock[1] * 1000000 + clock[2]))
  end
end

local function add(fields)
  begin()
  fields[#fields + 1] = 'q'
  fields[#fields + 1] = number(redis.call('INCR', SEQ))
  -- If Redis's clock was set back, or the newest entries were lost, the new id follows the newest
  -- id that the caller has read.
  if now <= tonumber(ARGV[2]) then
    local id = redis.pcall('XADD', EVENTS, ARGV[1], unpack(fields))
    if type(id) == 'string' then return id end
  end
  return redis.call('XADD', EVENTS, '*', unpack(fields))
end

local function trim()
  redis.call('XTRIM', EVENTS, 'MAXLEN', '~', ARGV[3])
  local oldest = now - tonumber(ARGV[4])
  if oldest > 0 then redis.call('XTRIM', EVENTS, 'MINID', '~', number(oldest)) end
end

-- Publishes a presence event to the channel of a member (CHANNEL\0NAME).
local function publish_presence(member, what, time)
  local split = member:find('\0', 1, true)
  if redis.call('EXISTS', 'threadcast:ended:' .. member:sub(1, split - 1)) == 1 then return end
  local data = '{"username":' .. cjson.encode(member:sub(split + 1)) .. ',"time":"' .. time .. '"}'
  add({ 'c', member:sub(1, split - 1), 'e', what, 'd', data })
end

local function join(node, member, time)
  redis.call('SADD', 'threadcast:names:' .. node, member)
  local at = 'threadcast:at:' .. member
  if redis.call('SADD', at, node) == 1 and redis.call('SCARD', at) == 1 then
    publish_presence(member, 'userconnect', time)
  end
end

local function leave(node, member, time)
  redis.call('SREM', 'threadcast:names:' .. node, member)
  local at = 'threadcast:at:' .. member
  if redis.call('SREM', at, node) == 1 and redis.call('EXISTS', at) == 0 then
    publish_presence(member, 'userdisconnect', time)
  end
end

-- Evicts a node. Names that were present only there leave.
local function evict_node(node, time)
  redis.call('ZREM', NODES, node)
  for _, member in ipairs(redis.call('SMEMBERS', 'threadcast:names:' .. node)) do
    leave(node, member, time)
  end
  redis.call('DEL', 'threadcast:names:' .. node, 'threadcast:node:' .. node)
  redis.call('INCR', ROWS)
end
