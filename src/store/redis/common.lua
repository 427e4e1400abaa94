-- What the scripts share. Each runs as a whole or not at all, so no node ever
-- sees half of what another does.
--
--  threadcast:events              stream  the log: every event of every channel
--  threadcast:seq                 number  the newest event's place, without a hole
--  threadcast:deleted             zset    places of events that were deleted
--  threadcast:own:CHANNEL\0ID     answer  an event with an id of its publisher's
--  threadcast:key:CHANNEL\0KEY    answer  a request with an idempotency key, and its fingerprint
--  threadcast:nodes               zset    each node, and until when it counts
--  threadcast:node:NODE           JSON    who listens there, for a while
--  threadcast:names:NODE          set     CHANNEL\0NAME of who is present there
--  threadcast:at:CHANNEL\0NAME    set     the nodes at which this name is present
--  threadcast:rows                number  how often any node's row has changed
--
-- ARGV begins with the id after the newest that the caller knows, the first
-- half of that, how many events there may be, and for how many milliseconds.
if redis.replicate_commands then redis.replicate_commands() end -- Redis 6 asks for it

local EVENTS, SEQ, DELETED = 'threadcast:events', 'threadcast:seq', 'threadcast:deleted'
local NODES, ROWS = 'threadcast:nodes', 'threadcast:rows'
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function number(n) return string.format('%.0f', n) end

-- Begins to count, in an empty Redis, at the microseconds since 1970: what a
-- Redis that was emptied gives out is never taken for what comes next.
local function begin()
  if redis.call('EXISTS', SEQ) == 0 then
    redis.call('SET', SEQ, number(clock[1] * 1000000 + clock[2]))
  end
end

local function add(fields)
  begin()
  fields[#fields + 1] = 'q'
  fields[#fields + 1] = number(redis.call('INCR', SEQ))
  -- Where the clock went back, or the newest events were lost, ids go on after
  -- those that the nodes have seen.
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

-- Tells a channel that a name has come or gone.
local function tell(member, what, time)
  local split = member:find('\0', 1, true)
  local data = '{"username":' .. cjson.encode(member:sub(split + 1)) .. ',"time":"' .. time .. '"}'
  add({ 'c', member:sub(1, split - 1), 'e', what, 'd', data })
end

local function come(node, member, time)
  redis.call('SADD', 'threadcast:names:' .. node, member)
  local at = 'threadcast:at:' .. member
  if redis.call('SADD', at, node) == 1 and redis.call('SCARD', at) == 1 then
    tell(member, 'userconnect', time)
  end
end

local function leave(node, member, time)
  redis.call('SREM', 'threadcast:names:' .. node, member)
  local at = 'threadcast:at:' .. member
  if redis.call('SREM', at, node) == 1 and redis.call('EXISTS', at) == 0 then
    tell(member, 'userdisconnect', time)
  end
end

-- Forgets a node. Who was present there alone has left.
local function evict_node(node, time)
  redis.call('ZREM', NODES, node)
  for _, member in ipairs(redis.call('SMEMBERS', 'threadcast:names:' .. node)) do
    leave(node, member, time)
  end
  redis.call('DEL', 'threadcast:names:' .. node, 'threadcast:node:' .. node)
  redis.call('INCR', ROWS)
end
