-- Who is connected, and who stands in which room.
--- @include histories

-- A room's totals: the number of its last change, connections, users.
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

-- Has a connection stand in a room.
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

-- Takes a connection out of a room, and tells the nodes with watchers, but one.
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
