-- What a room remembers.
--- @include basics

local LIFE = call('GET', B .. 'life') or ''
-- Beyond the time that counts, for Redis to remove what all nodes have forgotten.
local SLACK = 60000
-- Bytes that a message is counted for besides its own, as in core/realtime/messages.py.
local OVERHEAD = 256

-- Counts bytes that a history has taken, or given back where they are negative.
local function weigh(room, change)
  call('ZINCRBY', B .. 'sizes', change, room)
  call('INCRBY', B .. 'bytes', change)
end

-- Removes all messages of a history.
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

-- Removes the oldest message.
local function pop(room)
  local first = call('LPOP', k('l', room))
  if call('EXISTS', k('l', room)) == 0 then empty(room) else weigh(room, -#first - OVERHEAD) end
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

-- Begins a history that does not end while somebody stands in the room.
local function begin(room, ttl, fresh, made)
  call('HSET', k('h', room), 'e', fresh, 'o', 0, 't', made, 'i', 0, 'l', ttl, 'f', LIFE)
  return fresh, 0, 0
end

-- Keeps a history for as long as somebody stands in the room, and begins it where there is none.
local function hold(room, ttl, fresh, made, at)
  local epoch, offset = history(room, at)
  if not epoch then epoch, offset = begin(room, ttl, fresh, made) end
  call('HSET', k('h', room), 'i', 0, 'l', ttl)
  call('PERSIST', k('h', room))
  return epoch, offset
end

-- Lets a history end once its last message has: nobody stands in the room any more.
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
