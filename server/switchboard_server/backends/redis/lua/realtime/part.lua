-- Forgets a connection.
--
-- Args: name, token, and the rooms whose totals to return.
--- @include parts/members
--- @include parts/alive

local id, answer = ARGV[4], {}
if call('HGET', k('c', id), 'k') == ARGV[5] then drop(id, now(), NODE) end
for i = 6, #ARGV do answer[#answer + 1] = totals(ARGV[i]) end
return answer
