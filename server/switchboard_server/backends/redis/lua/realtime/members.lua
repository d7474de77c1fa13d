-- Who stands in a room.
--
-- Args: room, from, limit.
-- Returns for each name, user, and when it joined.
--- @include parts/basics

local answer = {}
for _, id in ipairs(call('ZRANGEBYLEX', k('m', ARGV[4]), ARGV[5], '+', 'LIMIT', 0, ARGV[6])) do
  local c = call('HMGET', k('c', id), 'u', 'r:' .. ARGV[4])
  answer[#answer + 1] = {id, c[1] or '', c[2] or '0'}
end
return answer
