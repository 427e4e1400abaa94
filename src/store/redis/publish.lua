-- Publishes requests. Returns a reply for each request: the id, the number of subscribers and the
-- number of events; "reused" if the request's key was used for other events; or "ended" if one of its
-- channels has ended. ARGV[5]: fields,
-- each with its length before it. Fields of each request: channel, other topics separated by NUL,
-- privacy, key, fingerprint of the events, how long ids and key are kept in milliseconds, number of
-- subscribers, number of events. Fields of each event: name, client-supplied id, retry, data, `1` if
-- it is the last event of its channels.
--
-- The reply stored for a key has the fingerprint as its fourth word. If an older version of
-- threadcast stored the reply, it has no fingerprint, and fits any request.
local packed, at = ARGV[5], 1

local function take()
  local length
  length, at = struct.unpack('<I4', packed, at)
  if length == 4294967295 then return nil end
  at = at + length
  return packed:sub(at - length, at - 1)
end

-- Returns the reply stored for a client-supplied id (kind 'own') or an idempotency key (kind 'key')
-- in one of the topics, if there is one.
local function find_reply(kind, topics, name)
  for _, topic in ipairs(topics) do
    local reply = redis.call('GET', 'threadcast:' .. kind .. ':' .. topic .. '\0' .. name)
    if reply then return reply end
  end
end

local function store_reply(kind, topics, name, reply, known_for)
  for _, topic in ipairs(topics) do
    redis.call('SET', 'threadcast:' .. kind .. ':' .. topic .. '\0' .. name, reply, 'PX', known_for)
  end
end

local function request()
  local channel, others, private, key, print = take(), take(), take(), take(), take()
  local known_for, subscribers, count = take(), take(), tonumber(take())
  local topics = { channel }
  for other in (others or ''):gmatch('[^%z]+') do topics[#topics + 1] = other end
  local first = key and find_reply('key', topics, key)
  local new, last, own_ids = {}, nil, {}
  for n = 1, count do
    local event, own, retry, data, is_end = take(), take(), take(), take(), take()
    if not first then
      local known = own and (own_ids[own] or find_reply('own', topics, own))
      if known then
        last = known
      else
        local fields = { 'c', channel, 'd', data, 's', subscribers, 'n', number(count) }
        for field, value in pairs({ o = others, p = private, e = event, i = own, r = retry, z = is_end }) do
          fields[#fields + 1] = field
          fields[#fields + 1] = value
        end
        local one = { fields = fields, own = own, is_end = is_end }
        new[#new + 1] = one
        last = one
        if own then own_ids[own] = one end
      end
    end
  end
  if first then
    local before = first:match('^%S+ %S+ %S+ (%S+)$')
    if before and print and before ~= print then return 'reused' end
    return first
  end
  for _, topic in ipairs(topics) do
    if #new > 0 and redis.call('EXISTS', 'threadcast:ended:' .. topic) == 1 then return 'ended' end
  end
  if key and #new > 0 then -- the newest event of the request carries the key
    local fields = new[#new].fields
    fields[#fields + 1] = 'k'
    fields[#fields + 1] = key
  end
  local rest = ' ' .. subscribers .. ' ' .. number(count)
  for _, one in ipairs(new) do
    one.id = add(one.fields)
    if one.own then store_reply('own', topics, one.own, one.id .. rest, known_for) end
    for _, topic in ipairs(one.is_end and topics or {}) do
      redis.call('SET', 'threadcast:ended:' .. topic, one.id, 'PX', known_for)
    end
  end
  local id = type(last) == 'table' and last.id or last:match('^%S+')
  if key and #new > 0 then store_reply('key', topics, key, id .. rest .. (print and ' ' .. print or ''), known_for) end
  return id .. rest
end

local replies = {}
while at <= #packed do replies[#replies + 1] = request() end
trim()
return replies
