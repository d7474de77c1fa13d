-- Args: room ("": anywhere), and users.
-- Returns for each how many connections, and since when.
--- @include parts/basics

local room, answer = ARGV[4], {}
for i = 5, #ARGV do
  local count, since = 0, ''
  for _, id in ipairs(call('ZRANGE', k('user', ARGV[i]), 0, -1)) do
    local at = call('HGET', k('c', id), room == '' and 's' or 'r:' .. room)
    if at then
      count = count + 1
      if since == '' or at < since then since = at end
    end
  end
  answer[#answer + 1] = {count, since}
end
return answer
