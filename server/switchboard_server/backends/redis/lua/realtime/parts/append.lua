-- Adds messages to histories.
--- @include histories

-- Empties the histories written to longest ago, last of all this one's own beginning.
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

-- Adds a message to a history; returns its epoch and offset.
local function append(room, size, ttl, seq, body, fresh, made, at, most)
  local epoch, offset = history(room, at)
  if not epoch then epoch, offset = begin(room, ttl, fresh, made) end
  offset = call('HINCRBY', k('h', room), 'o', 1)
  local expires = digits(at + ttl)
  call('RPUSH', k('l', room), expires .. ' ' .. seq .. body)
  weigh(room, #expires + 1 + #seq + #body + OVERHEAD)
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
