-- Keeps a message in histories, and gives it to the nodes that have somebody to hear it.
--
-- Args: whether it is to all, a fresh epoch, when it was sent, most bytes of all histories, the
-- targets, the head and the content of the message, and five lists, each after its length: rooms
-- that keep a history with size and ms of each, rooms, users, connections, and those excluded.
-- Returns how many connections of other nodes it is for, whether this node hears it, and epoch and
-- offset in each history.
--- @include parts/append

local every, fresh, made, most = ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
local targets, body, at = ARGV[8], '\n' .. ARGV[9] .. '\n' .. ARGV[10], now()
local place = 11

-- The next list: where in ARGV it begins and ends.
local function take()
  local count = tonumber(ARGV[place])
  local from = place + 1
  place = from + count
  return from, place - 1
end

-- Into the histories.
local seq = digits(call('INCR', B .. 'seq'))
local places, kept = {}, {}
local first, last = take()
for i = first, last, 3 do
  local epoch, offset = append(ARGV[i], ARGV[i + 1], ARGV[i + 2], seq, body, fresh, made, at, most)
  places[#places + 1] = epoch
  places[#places + 1] = offset
  kept[#kept + 1] = epoch .. ':' .. offset
end

-- Which nodes hear it, and for how many connections of others it is.
local nodes, sum, parts = {}, 0, 0

-- Adds the nodes of a hash of counts by node.
local function reach(hash)
  local counts = call('HGETALL', hash)
  for i = 1, #counts, 2 do
    nodes[counts[i]] = true
    if counts[i] ~= NODE then sum = sum + counts[i + 1] end
  end
end

local room_first, room_last = take()
local user_first, user_last = take()
local client_first, client_last = take()
local without_first, without_last = take()

if every ~= '' then
  sum = call('ZCARD', B .. 'conns') - call('SCARD', k('node', NODE))
else
  for i = room_first, room_last do reach(k('n', ARGV[i])) end
  for i = user_first, user_last do reach(k('un', ARGV[i])) end
  for i = client_first, client_last do
    local node = call('HGET', k('c', ARGV[i]), 'n')
    if node then
      nodes[node] = true
      if node ~= NODE then sum = sum + 1 end
    end
  end
  if room_last >= room_first then parts = room_last - room_first + 1 end
  if user_last >= user_first then parts = parts + 1 end
  if client_last >= client_first then parts = parts + 1 end
end

local function foreign(id)
  local node = call('HGET', k('c', id), 'n')
  return node and node ~= NODE
end

-- Where targets may overlap a connection is counted once, if that takes not too long; and those
-- excluded are not counted.
if parts > 1 and sum > 0 and sum <= 1000 then
  local union = {}
  local function add(ids)
    for _, id in ipairs(ids) do if foreign(id) then union[id] = true end end
  end
  for i = room_first, room_last do add(call('ZRANGE', k('m', ARGV[i]), 0, -1)) end
  for i = user_first, user_last do add(call('ZRANGE', k('user', ARGV[i]), 0, -1)) end
  for i = client_first, client_last do add({ARGV[i]}) end
  for i = without_first, without_last do union[ARGV[i]] = nil end
  sum = 0
  for _ in pairs(union) do sum = sum + 1 end
elseif sum > 0 then
  local function meant(id)
    if every ~= '' then return true end
    for i = room_first, room_last do
      if call('ZSCORE', k('m', ARGV[i]), id) then return true end
    end
    local user = call('HGET', k('c', id), 'u')
    for i = user_first, user_last do if ARGV[i] == user then return true end end
    for i = client_first, client_last do if ARGV[i] == id then return true end end
    return false
  end
  for i = without_first, without_last do
    if foreign(ARGV[i]) and meant(ARGV[i]) then sum = sum - 1 end
  end
end

local frame = 'm' .. seq .. ' ' .. table.concat(kept, ' ') .. '\n' .. targets .. body
local here = 0
if every ~= '' then
  here = 1
  call('PUBLISH', CHANNEL, frame)
else
  for node in pairs(nodes) do
    if node == NODE then here = 1 end
    call('PUBLISH', CHANNEL .. node, frame)
  end
end
return {sum, here, places}
