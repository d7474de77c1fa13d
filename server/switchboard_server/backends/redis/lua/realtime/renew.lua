-- Keeps the node alive, and forgets a part of what is dead or has expired.
--
-- Args: lease in ms.
-- Returns whether there is more of it, how many nodes there are, and bytes of all histories.
--- @include parts/members
--- @include parts/alive

local lease, at, more = tonumber(ARGV[4]), now(), 0
if until_ms < at then
  -- This node was away, or Redis was, and with it all nodes: nobody is judged by that time.
  for _, node in ipairs(call('ZRANGEBYSCORE', B .. 'nodes', '(0', '+inf')) do
    call('ZADD', B .. 'nodes', digits(at + lease), node)
  end
else
  call('ZADD', B .. 'nodes', digits(at + lease), NODE)
  local dead = call('ZRANGEBYSCORE', B .. 'nodes', '-inf', digits(at), 'LIMIT', 0, 1)[1]
  if dead then
    more = 1
    -- Whatever it says before all of it is forgotten, it is told that it was taken for dead.
    call('ZADD', B .. 'nodes', 0, dead)
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
return {more, call('ZCOUNT', B .. 'nodes', '(0', '+inf'), tonumber(call('GET', B .. 'bytes') or 0)}
