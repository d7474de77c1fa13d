-- Args: from, to, limit.
-- Returns the first rooms in which somebody stands, and the first that remember something.
--- @include parts/basics

local answer = {}
for i, set in ipairs({'rooms', 'kept'}) do
  answer[i] = call('ZRANGEBYLEX', B .. set, ARGV[4], ARGV[5], 'LIMIT', 0, ARGV[6])
end
return answer
