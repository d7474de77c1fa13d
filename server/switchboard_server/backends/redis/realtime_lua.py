"""What nodes do in Redis to who is there: scripts in Lua, each done as a whole.

All keys begin with KEYS[1]; they are, by the word that follows it:

    life            the life of the data that the rest was written in
    seq             grows with every message and every change of a room
    nodes           sorted set: the nodes, by the time in ms up to which each is taken to be alive
    node:N          set: the connections of a node
    conns, conns:T  sorted set: the names of all connections, in order; those of a transport
    c:ID            hash: a connection: n its node, k its token, u its user, t its transport, p its
                    peer, s when it was opened, d the node's name; r:ROOM when it joined that room
    users           sorted set: the users who are online, in order
    user:U, un:U    sorted set: a user's connections, in order; hash: how many of them on each node
    rooms           sorted set: the rooms in which somebody stands, in order
    r:R             hash: t when the room was made, v the number of its last change
    m:R, u:R        sorted set: who stands in a room, in order; hash: connections of each user there
    n:R, w:R        hash: how many stand there on each node; nodes on which somebody watches
    h:R, l:R        hash: a room's history: e epoch, o offset, t when it was made, i when its count
                    ends (0: not yet), l how long a message is kept, f the life; list: its messages
    kept, due, old  sorted set: the rooms whose history holds a message, in order; by when its last
                    one expires; by the number of its last one
    sizes, bytes    sorted set: bytes of each history; bytes of all

A message in a history is "EXPIRES SEQ", its head and its content, on a line each. A node writes
only while it is among `nodes`. Once it was taken for dead, every script of its own fails with
SWEPT, so that nothing of it is left behind.
"""

BASICS = """
local B, NODE, CLOCK, CHANNEL = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local call = redis.call
local function k(kind, name) return B .. kind .. ':' .. name end
local function digits(n) return string.format('%.0f', n) end
local function now()
  if CLOCK ~= '' then return tonumber(CLOCK) end
  local t = call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
"""

HISTORIES = """
local LIFE = call('GET', B .. 'life') or ''
-- Beyond the time that counts, for Redis to remove what all nodes have forgotten.
local SLACK = 60000
local function weigh(room, change)
  call('ZINCRBY', B .. 'sizes', change, room)
  call('INCRBY', B .. 'bytes', change)
end
local function empty(room)
  call('ZREM', B .. 'kept', room)
  call('ZREM', B .. 'due', room)
  call('ZREM', B .. 'old', room)
  local size = call('ZSCORE', B .. 'sizes', room)
  if size then
    call('INCRBY', B .. 'bytes', '-' .. digits(size))
    call('ZREM', B .. 'sizes', room)
  end
  call('DEL', k('l', room))
end
local function pop(room)
  local first = call('LPOP', k('l', room))
  if call('EXISTS', k('l', room)) == 0 then empty(room) else weigh(room, -#first - 256) end
end
-- A room's history as it is now: epoch, offset, length; nil where there is none.
local function history(room, at)
  local h = call('HMGET', k('h', room), 'e', 'o', 'i', 'f')
  if not h[1] or h[4] ~= LIFE then
    empty(room)
    call('DEL', k('h', room))
    return nil
  end
  while true do
    local first = call('LINDEX', k('l', room), 0)
    if not first or tonumber(string.match(first, '^%d+')) > at then break end
    pop(room)
  end
  local length = call('LLEN', k('l', room))
  local ends = tonumber(h[3])
  if length == 0 and ends ~= 0 and ends <= at then
    empty(room)
    call('DEL', k('h', room))
    return nil
  end
  return h[1], tonumber(h[2]), length
end
local function begin(room, ttl, fresh, made)
  call('HSET', k('h', room), 'e', fresh, 'o', 0, 't', made, 'i', 0, 'l', ttl, 'f', LIFE)
  return fresh, 0, 0
end
local function hold(room, ttl, fresh, made, at)
  local epoch, offset = history(room, at)
  if not epoch then epoch, offset = begin(room, ttl, fresh, made) end
  call('HSET', k('h', room), 'i', 0, 'l', ttl)
  call('PERSIST', k('h', room))
  return epoch, offset
end
local function let_go(room, at)
  local ttl = call('HGET', k('h', room), 'l')
  if ttl then
    call('HSET', k('h', room), 'i', digits(at + ttl))
    call('PEXPIRE', k('h', room), ttl + SLACK)
  end
end
-- All that followed a place, with the offset of the last; nil where that cannot be told.
local function after(room, epoch, offset, at)
  local e, o, length = history(room, at)
  if e ~= epoch or offset > o then return nil end
  local skipped = offset - (o - length)
  if skipped < 0 then return nil end
  if offset == o then return {}, o end
  return call('LRANGE', k('l', room), skipped, -1), o
end
"""

_APPEND = """
local function make_room(room, most)
  while tonumber(call('GET', B .. 'bytes') or 0) > most do
    local oldest = call('ZRANGE', B .. 'old', 0, 0)[1]
    if not oldest then
      call('SET', B .. 'bytes', 0)
    elseif oldest ~= room then
      empty(oldest)
      if call('HGET', k('h', oldest), 'i') ~= '0' then call('DEL', k('h', oldest)) end
    elseif call('LLEN', k('l', room)) > 1 then
      pop(room)
    else
      return
    end
  end
end
local function append(room, size, ttl, seq, body, fresh, made, at, most)
  local epoch, offset = history(room, at)
  if not epoch then epoch, offset = begin(room, ttl, fresh, made) end
  offset = call('HINCRBY', k('h', room), 'o', 1)
  local expires = digits(at + ttl)
  call('RPUSH', k('l', room), expires .. ' ' .. seq .. body)
  weigh(room, #expires + 1 + #seq + #body + 256)
  if call('LLEN', k('l', room)) > tonumber(size) then pop(room) end
  call('PEXPIRE', k('l', room), ttl + SLACK)
  if call('EXISTS', k('n', room)) == 0 then
    call('HSET', k('h', room), 'i', expires, 'l', ttl)
    call('PEXPIRE', k('h', room), ttl + SLACK)
  end
  call('ZADD', B .. 'kept', 0, room)
  call('ZADD', B .. 'due', expires, room)
  call('ZADD', B .. 'old', seq, room)
  make_room(room, most)
  return epoch, offset
end
"""

_MEMBERS = """
local function totals(room)
  return {call('HGET', k('r', room), 'v') or '0', call('ZCARD', k('m', room)),
          call('HLEN', k('u', room))}
end
-- Tells the nodes with watchers, but one, who came or went.
local function changed(room, before, after, but, quiet)
  local version = call('INCR', B .. 'seq')
  if call('EXISTS', k('m', room)) == 1 then call('HSET', k('r', room), 'v', version) end
  local nodes = call('HKEYS', k('w', room))
  if #nodes == 0 or quiet then return end
  local body = 'p' .. cjson.encode({room, digits(version), call('ZCARD', k('m', room)),
    call('HLEN', k('u', room)), before, after})
  for _, node in ipairs(nodes) do
    if node ~= but then call('PUBLISH', CHANNEL .. node, body) end
  end
end
local function stand(node, id, user, room, since, watch, quiet)
  if call('ZADD', k('m', room), 0, id) == 1 then
    call('HINCRBY', k('n', room), node, 1)
    if user ~= '' then call('HINCRBY', k('u', room), user, 1) end
    if call('HSETNX', k('r', room), 't', since) == 1 then call('ZADD', B .. 'rooms', 0, room) end
    call('HSET', k('c', id), 'r:' .. room, since)
    if watch == '1' then call('HSET', k('w', room), node, 1) end
    changed(room, false, {id, user, since}, NODE, quiet)
  elseif watch == '1' then
    call('HSET', k('w', room), node, 1)
  end
end
local function vacate(node, id, user, room, at, but)
  if call('ZREM', k('m', room), id) == 0 then return end
  local since = call('HGET', k('c', id), 'r:' .. room) or '0'
  call('HDEL', k('c', id), 'r:' .. room)
  if user ~= '' and call('HINCRBY', k('u', room), user, -1) <= 0 then
    call('HDEL', k('u', room), user)
  end
  if call('HINCRBY', k('n', room), node, -1) <= 0 then
    call('HDEL', k('n', room), node)
    call('HDEL', k('w', room), node)
    if call('EXISTS', k('n', room)) == 0 then let_go(room, at) end
  end
  if call('EXISTS', k('m', room)) == 0 then
    call('ZREM', B .. 'rooms', room)
    call('DEL', k('u', room), k('n', room), k('w', room), k('r', room))
  end
  changed(room, {id, user, since}, false, but)
end
-- Forgets a connection, and tells the nodes with watchers, but one.
local function drop(id, at, but)
  local c = call('HMGET', k('c', id), 'n', 'u', 't')
  local node, user = c[1], c[2]
  if not node then return end
  for _, field in ipairs(call('HKEYS', k('c', id))) do
    if string.sub(field, 1, 2) == 'r:' then
      vacate(node, id, user, string.sub(field, 3), at, but)
    end
  end
  call('DEL', k('c', id))
  call('ZREM', B .. 'conns', id)
  call('ZREM', k('conns', c[3]), id)
  call('SREM', k('node', node), id)
  if user ~= '' then
    call('ZREM', k('user', user), id)
    if call('HINCRBY', k('un', user), node, -1) <= 0 then call('HDEL', k('un', user), node) end
    if call('EXISTS', k('user', user)) == 0 then call('ZREM', B .. 'users', user) end
  end
end
-- Makes a connection known. What another one of its name has comes to an end, unless that one is
-- another user's, or, where it is not certain which came last, was opened later.
local function admit(id, token, user, transport, peer, name, since, certain, at)
  local held = call('HMGET', k('c', id), 'k', 'u', 'n', 's')
  if held[1] == token then return 'known' end
  if held[1] then
    if held[2] ~= user then return 'denied' end
    if not certain and held[4] > since then return 'replaced' end
    drop(id, at, '')
    -- To this node, too: it may not know yet that it had the other one.
    call('PUBLISH', CHANNEL .. held[3], 'e' .. cjson.encode(held[1]))
  end
  call('HSET', k('c', id), 'n', NODE, 'k', token, 'u', user, 't', transport, 'p', peer,
    's', since, 'd', name)
  call('ZADD', B .. 'conns', 0, id)
  call('ZADD', k('conns', transport), 0, id)
  call('SADD', k('node', NODE), id)
  if user ~= '' then
    call('ZADD', k('user', user), 0, id)
    call('HINCRBY', k('un', user), NODE, 1)
    call('ZADD', B .. 'users', 0, user)
  end
  return 'new'
end
"""

_ALIVE = """
if not call('ZSCORE', B .. 'nodes', NODE) then return redis.error_reply('SWEPT') end
"""

_SHARED = BASICS + HISTORIES + _MEMBERS

BEGIN = (
    _SHARED
    + """
local lease, life, at = tonumber(ARGV[4]), ARGV[5], now()
if LIFE ~= life then
  -- Who was known before may be alive, and has to have the time to say so.
  for _, node in ipairs(call('ZRANGE', B .. 'nodes', 0, -1)) do
    call('ZADD', B .. 'nodes', digits(at + lease), node)
  end
  call('SET', B .. 'life', life)
end
call('ZADD', B .. 'nodes', digits(at + lease), NODE)
local found = {}
for _, id in ipairs(call('SMEMBERS', k('node', NODE))) do
  found[#found + 1] = id
  found[#found + 1] = call('HGET', k('c', id), 'k') or ''
end
return found
"""
)
"""Args: lease in ms, life. Makes the node alive. Returns what is known of its connections: each
name and token."""

RENEW = (
    _SHARED
    + """
local lease, at = tonumber(ARGV[4]), now()
local mine = call('ZSCORE', B .. 'nodes', NODE)
if not mine then return redis.error_reply('SWEPT') end
local more = 0
if tonumber(mine) < at then
  -- This node was away, or Redis was, and with it all nodes: nobody is judged by that time.
  for _, node in ipairs(call('ZRANGE', B .. 'nodes', 0, -1)) do
    call('ZADD', B .. 'nodes', digits(at + lease), node)
  end
else
  call('ZADD', B .. 'nodes', digits(at + lease), NODE)
  local dead = call('ZRANGEBYSCORE', B .. 'nodes', '-inf', digits(at), 'LIMIT', 0, 1)[1]
  if dead then
    more = 1
    local ids = call('SPOP', k('node', dead), 100)
    for _, id in ipairs(ids) do
      if call('HGET', k('c', id), 'n') == dead then drop(id, at, '') end
    end
    if #ids < 100 then call('ZREM', B .. 'nodes', dead) end
  end
end
local due = call('ZRANGEBYSCORE', B .. 'due', '-inf', digits(at), 'LIMIT', 0, 100)
for _, room in ipairs(due) do
  history(room, at)
  local last = call('LINDEX', k('l', room), -1)
  if last then call('ZADD', B .. 'due', string.match(last, '^%d+'), room) else empty(room) end
end
if #due == 100 then more = 1 end
return {more, call('ZCARD', B .. 'nodes'), tonumber(call('GET', B .. 'bytes') or 0)}
"""
)
"""Args: lease in ms. Keeps the node alive, and forgets a part of what is dead or has expired.
Returns whether there is more of it, how many nodes there are, and bytes of all histories."""

END = (
    _SHARED
    + """
call('ZREM', B .. 'nodes', NODE)
local at = now()
for _, id in ipairs(call('SMEMBERS', k('node', NODE))) do
  if call('HGET', k('c', id), 'n') == NODE then drop(id, at, NODE) end
end
call('DEL', k('node', NODE))
return 1
"""
)
"""Forgets the node at its own wish."""

ADMIT = (
    _SHARED
    + _ALIVE
    + """
return admit(ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10], true, now())
"""
)
"""Args: name, token, user, transport, peer, the node's name, when it was opened. Returns "new",
"known" or "denied"."""

RESTATE = (
    _SHARED
    + _ALIVE
    + """
local id, token, user, at = ARGV[4], ARGV[5], ARGV[6], now()
local verdict = admit(id, token, user, ARGV[7], ARGV[8], ARGV[9], ARGV[10], false, at)
if verdict == 'denied' or verdict == 'replaced' then return {verdict} end
local fresh, quiet, wanted, answer = ARGV[11], ARGV[12] == '1', {}, {verdict}
for i = 13, #ARGV, 4 do
  local room, since, watch, ttl = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  wanted[room] = true
  stand(NODE, id, user, room, since, watch, quiet)
  if ttl ~= '' then hold(room, ttl, fresh, since, at) end
  local found = totals(room)
  answer[#answer + 1] = {room, found[1], found[2], found[3]}
end
for _, field in ipairs(call('HKEYS', k('c', id))) do
  if string.sub(field, 1, 2) == 'r:' and not wanted[string.sub(field, 3)] then
    vacate(NODE, id, user, string.sub(field, 3), at, NODE)
  end
end
return answer
"""
)
"""Args: as of ADMIT, a fresh epoch, whether no watcher is to hear of it, and for each room its
name, when the connection joined, whether it watches, and how long a message is kept ("": never).
Returns "new", "known", "denied" or "replaced", and for each room its name and its totals."""

PART = (
    _SHARED
    + _ALIVE
    + """
local id, answer = ARGV[4], {}
if call('HGET', k('c', id), 'k') == ARGV[5] then drop(id, now(), NODE) end
for i = 6, #ARGV do answer[#answer + 1] = totals(ARGV[i]) end
return answer
"""
)
"""Args: name, token, and the rooms whose totals to return."""

ENTER = (
    _SHARED
    + _ALIVE
    + """
local id, token, user, room, since, watch = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local ttl, fresh, known, offset = ARGV[10], ARGV[11], ARGV[12], ARGV[13]
local at = now()
if call('HGET', k('c', id), 'k') ~= token then return {} end
stand(NODE, id, user, room, since, watch)
if ttl == '' then return {totals(room)} end
local epoch, last = hold(room, ttl, fresh, since, at)
local missed = false
if known ~= '' then missed = after(room, known, tonumber(offset), at) or false end
return {totals(room), epoch, last, missed}
"""
)
"""Args: name, token, user, room, when it joins, whether it watches, how long a message is kept ("":
never), a fresh epoch, and the place after which to read, epoch ("": nowhere) and offset. Returns
the room's totals, and of its history epoch, offset and what was asked; nothing for a connection
that is not this node's any more."""

LEAVE = (
    _SHARED
    + _ALIVE
    + """
local id, room = ARGV[4], ARGV[7]
if call('HGET', k('c', id), 'k') == ARGV[5] then vacate(NODE, id, ARGV[6], room, now(), NODE) end
return totals(room)
"""
)
"""Args: name, token, user, room. Returns the room's totals."""

SEND = (
    BASICS
    + HISTORIES
    + _APPEND
    + """
local every, fresh, made, most = ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
local targets, body, at = ARGV[8], '\\n' .. ARGV[9] .. '\\n' .. ARGV[10], now()
local place = 11
local function take()
  local count = tonumber(ARGV[place])
  local from = place + 1
  place = from + count
  return from, place - 1
end
local seq = digits(call('INCR', B .. 'seq'))
local places, kept = {}, {}
local first, last = take()
for i = first, last, 3 do
  local epoch, offset = append(ARGV[i], ARGV[i + 1], ARGV[i + 2], seq, body, fresh, made, at, most)
  places[#places + 1] = epoch
  places[#places + 1] = offset
  kept[#kept + 1] = epoch .. ':' .. offset
end
local nodes, sum, union, only = {}, 0, {}, nil
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
local parts = 0
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
if parts > 1 and sum > 0 and sum <= 1000 then
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
local frame = 'm' .. seq .. ' ' .. table.concat(kept, ' ') .. '\\n' .. targets .. body
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
"""
)
"""Args: whether it is to all, a fresh epoch, when it was sent, most bytes of all histories, the
targets, the head and the content of the message, and five lists, each after its length: rooms that
keep a history with size and ms of each, rooms, users, connections, and those excluded. Returns how
many connections of other nodes it is for, whether this node hears it, and epoch and offset in each
history."""

CATCH_UP = (
    BASICS
    + HISTORIES
    + """
local at, budget, answer = now(), tonumber(ARGV[4]), {}
for i = 5, #ARGV, 3 do
  local room, found = ARGV[i], false
  if budget > 0 then found = after(room, ARGV[i + 1], tonumber(ARGV[i + 2]), at) or false end
  if found then
    for _, each in ipairs(found) do budget = budget - #each end
  end
  local epoch, offset = history(room, at)
  answer[#answer + 1] = {epoch or '', offset or 0, found}
end
return answer
"""
)
"""Args: about how many bytes to return at most, and for each room its name and the place after
which to read, epoch and offset. Returns for each its epoch and offset now, and what was asked, or
nothing."""
