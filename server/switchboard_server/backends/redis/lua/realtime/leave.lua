-- Takes a connection out of a room.
--
-- Args: name, token, user, room.
-- Returns the room's totals.
--- @include parts/members
--- @include parts/alive

local id, room = ARGV[4], ARGV[7]
if call('HGET', k('c', id), 'k') == ARGV[5] then vacate(NODE, id, ARGV[6], room, now(), NODE) end
return totals(room)
