-- Finds connections of other nodes.
--
-- Args: names.
-- Returns for those on other nodes name, node, user and token.
--- @include parts/basics

local answer = {}
for i = 4, #ARGV do
  local c = call('HMGET', k('c', ARGV[i]), 'n', 'u', 'k')
  if c[1] and c[1] ~= NODE then answer[#answer + 1] = {ARGV[i], c[1], c[2], c[3]} end
end
return answer
