-- Publishes requests, each answered with its id, subscribers and count, or with
-- "reused" if its key was used for other events. ARGV[5]: fields with their length
-- before them, of each request: channel, its other topics with a NUL between them,
-- whether it is private, key, fingerprint of its events, for how long its names are
-- known, subscribers, how many events; and of each event: name, id, retry, data.
--
-- The answer stored for a key has the fingerprint as its fourth word. An answer
-- without one is of an older node, and fits any request.
local packed, at = ARGV[5], 1

local function take()
  local length
  length, at = struct.unpack('<I4', packed, at)
  if length == 4294967295 then return nil end
  at = at + length
  return packed:sub(at - length, at - 1)
end

-- What the topics know by this name, if any of them does.
local function known_as(kind, topics, name)
  for _, topic in ipairs(topics) do
    local answer = redis.call('GET', 'threadcast:' .. kind .. ':' .. topic .. '\0' .. name)
    if answer then return answer end
  end
end

local function name(kind, topics, name, answer, known_for)
  for _, topic in ipairs(topics) do
    redis.call('SET', 'threadcast:' .. kind .. ':' .. topic .. '\0' .. name, answer, 'PX', known_for)
  end
end

local function request()
  local channel, others, private, key, print = take(), take(), take(), take(), take()
  local known_for, subscribers, count = take(), take(), tonumber(take())
  local topics = { channel }
  for other in (others or ''):gmatch('[^%z]+') do topics[#topics + 1] = other end
  local answered = key and known_as('key', topics, key)
  local new, last, own_ids = {}, nil, {}
  for n = 1, count do
    local event, own, retry, data = take(), take(), take(), take()
    if not answered then
      local known = own and (own_ids[own] or known_as('own', topics, own))
      if known then
        last = known
      else
        local fields = { 'c', channel, 'd', data, 's', subscribers, 'n', number(count) }
        for field, value in pairs({ o = others, p = private, e = event, i = own, r = retry }) do
          fields[#fields + 1] = field
          fields[#fields + 1] = value
        end
        local one = { fields = fields, own = own }
        new[#new + 1] = one
        last = one
        if own then own_ids[own] = one end
      end
    end
  end
  if answered then
    local before = answered:match('^%S+ %S+ %S+ (%S+)$')
    if before and print and before ~= print then return 'reused' end
    return answered
  end
  if key and #new > 0 then -- it is known for as long as the newest event of its batch is
    local fields = new[#new].fields
    fields[#fields + 1] = 'k'
    fields[#fields + 1] = key
  end
  local rest = ' ' .. subscribers .. ' ' .. number(count)
  for _, one in ipairs(new) do
    one.id = add(one.fields)
    if one.own then name('own', topics, one.own, one.id .. rest, known_for) end
  end
  local id = type(last) == 'table' and last.id or last:match('^%S+')
  if key and #new > 0 then name('key', topics, key, id .. rest .. (print and ' ' .. print or ''), known_for) end
  return id .. rest
end

local answers = {}
while at <= #packed do answers[#answers + 1] = request() end
trim()
return answers
