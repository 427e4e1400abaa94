-- Publishes requests, each answered with its id, subscribers and count. ARGV[5]:
-- fields with their length before them, of each request: channel, key, for how
-- long its names are known, subscribers, how many events; and of each event:
-- name, id, retry, data.
local packed, at = ARGV[5], 1

local function take()
  local length
  length, at = struct.unpack('<I4', packed, at)
  if length == 4294967295 then return nil end
  at = at + length
  return packed:sub(at - length, at - 1)
end

local function request()
  local channel, key, known_for, subscribers, count = take(), take(), take(), take(), tonumber(take())
  local key_mark = key and 'threadcast:key:' .. channel .. '\0' .. key
  local answered = key_mark and redis.call('GET', key_mark)
  local new, last, own_ids = {}, nil, {}
  for n = 1, count do
    local name, own, retry, data = take(), take(), take(), take()
    if not answered then
      local mark = own and 'threadcast:own:' .. channel .. '\0' .. own
      local known = mark and (own_ids[own] or redis.call('GET', mark))
      if known then
        last = known
      else
        local fields = { 'c', channel, 'd', data, 's', subscribers, 'n', number(count) }
        for field, value in pairs({ e = name, i = own, r = retry }) do
          fields[#fields + 1] = field
          fields[#fields + 1] = value
        end
        local one = { fields = fields, mark = mark }
        new[#new + 1] = one
        last = one
        if own then own_ids[own] = one end
      end
    end
  end
  if answered then return answered end
  if key and #new > 0 then -- it is known for as long as the newest event of its batch is
    local fields = new[#new].fields
    fields[#fields + 1] = 'k'
    fields[#fields + 1] = key
  end
  local rest = ' ' .. subscribers .. ' ' .. number(count)
  for _, one in ipairs(new) do
    one.id = add(one.fields)
    if one.mark then redis.call('SET', one.mark, one.id .. rest, 'PX', known_for) end
  end
  local id = type(last) == 'table' and last.id or last:match('^%S+')
  if key_mark and #new > 0 then redis.call('SET', key_mark, id .. rest, 'PX', known_for) end
  return id .. rest
end

local answers = {}
while at <= #packed do answers[#answers + 1] = request() end
trim()
return answers
