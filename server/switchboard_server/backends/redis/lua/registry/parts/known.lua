-- Only in the store that the node knows, and in time, it goes on from here.
--- @include common

if known[1] ~= ID or stamp < SEEN then return {'lost'} end
-- It was under way for so long that who asked was told that it failed, and may have done otherwise.
if expires ~= '' and wall > tonumber(expires) then return {'stale'} end
