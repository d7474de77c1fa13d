-- Finds the other nodes on which users have connections.
--
-- Args: users.
--- @include parts/basics

local seen, answer = {}, {}
for i = 4, #ARGV do
  for _, node in ipairs(call('HKEYS', k('un', ARGV[i]))) do
    if node ~= NODE and not seen[node] then
      seen[node] = true
      answer[#answer + 1] = node
    end
  end
end
return answer
