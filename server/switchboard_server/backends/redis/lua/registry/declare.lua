-- Has an instance show the status that somebody declares.
--
-- Args: key, status ("": that of its check, again), reason, ms after which an unhealthy one is
-- removed.
-- Returns "declared" and the instance, or "absent".
--- @include parts/known

local key, status, reason, reap = ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8])
local one = read(key)
if not one then return done({'absent'}) end
if one[DECLARED] ~= status or one[DECLARED_REASON] ~= reason then
  one[DECLARED], one[DECLARED_REASON] = status, reason
  local shown = status ~= '' and status or one[CHECKED]
  show(key, one, reap, one[STATUS] == shown)
end
return answer('declared', one)
