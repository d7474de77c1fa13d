-- Lets a stream hold an instance: its lease lasts as long as the stream.
--
-- Args: key, the stream's token; and where it held it before, birth and tokens under which.
-- Returns "held" and the instance; "absent"; "taken" by another; or "stranger": the node is taken
-- for dead.
--- @include parts/known

local key, token = ARGV[5], ARGV[6]
if not alive(SELF) then return done({'stranger'}) end
local one = read(key)
if not one then return done({'absent'}) end
if #ARGV > 6 then
  local expected = one[HOLDER] == ''
  for index = 8, #ARGV do
    if ARGV[index] == one[HOLDER] then expected = true end
  end
  if one[BIRTH] ~= ARGV[7] or not expected then return done({'taken'}) end
end
release(key, one)
one[HOLDER], one[LEASED], one[UNCONFIRMED] = token, '1', ''
one[LEASE_UNTIL] = text(now + tonumber(one[LEASE]))
redis.call('ZADD', HELD, 0, SELF .. '|' .. key)
touch(key, one)
return answer('held', one)
