-- Keeps the node alive, and forgets a part of what is dead or has expired.
--
-- Args: lease in ms.
-- Returns whether there is more of it, how many nodes there are, and bytes of all histories.
--- @include parts/members

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
