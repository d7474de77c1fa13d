-- Makes the node alive.
--
-- Args: lease in ms, life.
-- Returns what is known of its connections: each name and token.
--- @include parts/members

local lease, life, at = tonumber(ARGV[4]), ARGV[5], now()
if LIFE ~= life then
  -- Who was known before may be alive, and has to have the time to say so.
  for _, node in ipairs(call('ZRANGEBYSCORE', B .. 'nodes', '(0', '+inf')) do
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
