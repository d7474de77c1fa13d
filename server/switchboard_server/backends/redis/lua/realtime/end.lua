-- Forgets the node at its own wish.
--- @include parts/members

call('ZREM', B .. 'nodes', NODE)
local at = now()
for _, id in ipairs(call('SMEMBERS', k('node', NODE))) do
  if call('HGET', k('c', id), 'n') == NODE then drop(id, at, NODE) end
end
call('DEL', k('node', NODE))
return 1
