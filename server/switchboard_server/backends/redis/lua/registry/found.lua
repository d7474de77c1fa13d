-- Begins a store, unless there is one that the node does not know better.
--
-- Args: the new store's id, the revision that the node knows, that of the oldest removal that it
-- knows, and for each removal key and revision.
-- Returns "founded" or "there", and the id of the store that there is now.
--- @include parts/common

local id, know_revision, oldest = ARGV[5], tonumber(ARGV[6]), ARGV[7]
if known[1] and (known[1] ~= ID or stamp >= SEEN) then return {'there', known[1]} end
local view = tonumber(known[6] or 0) + 1
redis.call('DEL', META, ALL, DUE, NODES, HELD, LOG, LOADS, EVICTED, REMOVED)
-- The time is far ahead of any revision that was ever told, wherever that may have been.
revision, stamp = math.max(know_revision + 1000000, wall), math.max(SEEN + 1000000, wall)
offset = 0
redis.call('HSET', META, 'id', id, 'view', text(view), 'announced', text(revision),
  'previous', ID, 'oldest', ID ~= '' and oldest or '', 'base', text(know_revision),
  'until', text(wall + RESTORE))
for index = 8, #ARGV, 2 do redis.call('HSET', REMOVED, ARGV[index], ARGV[index + 1]) end
redis.call('PEXPIRE', REMOVED, RESTORE)
return done({'founded', id})
