-- Deregisters an instance.
--
-- Args: key.
-- Returns "removed" and the revision, or "absent".
--- @include parts/known

local one = read(ARGV[5])
if not one then return done({'absent'}) end
drop(ARGV[5], one, DEREGISTERED)
return done({'removed', text(revision)})
