-- Ends what `hold` began.
--
-- Args: key, the stream's token, ms that the lease lasts from now.
--- @include parts/known

local key, token, left = ARGV[5], ARGV[6], tonumber(ARGV[7])
local one = read(key)
if one and one[HOLDER] == token then
  release(key, one)
  one[LEASE_UNTIL] = text(now + left)
  touch(key, one)
end
return done({'done'})
