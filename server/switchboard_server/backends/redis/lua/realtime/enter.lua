-- Has a connection stand in a room.
--
-- Args: name, token, user, room, when it joins, whether it watches, how long a message is kept ("":
-- never), a fresh epoch, and the place after which to read, epoch ("": nowhere) and offset.
-- Returns the room's totals, and of its history epoch, offset and what was asked; nothing for a
-- connection that is not this node's any more.
--- @include parts/members
--- @include parts/alive

local id, token, user, room, since, watch = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local ttl, fresh, known, offset = ARGV[10], ARGV[11], ARGV[12], ARGV[13]
local at = now()
if call('HGET', k('c', id), 'k') ~= token then return {} end
stand(NODE, id, user, room, since, watch)
if ttl == '' then return {totals(room)} end
local epoch, last = hold(room, ttl, fresh, since, at)
local missed = false
if known ~= '' then missed = after(room, known, tonumber(offset), at) or false end
return {totals(room), epoch, last, missed}
