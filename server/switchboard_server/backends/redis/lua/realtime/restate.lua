-- Makes a connection known as it is by now, with the rooms that it stands in.
--
-- Args: as of admit.lua, a fresh epoch, whether no watcher is to hear of it, and for each room its
-- name, when the connection joined, whether it watches, and how long a message is kept ("": never).
-- Returns "new", "known", "denied" or "replaced", and for each room its name and its totals.
--- @include parts/members
--- @include parts/alive

local id, token, user, at = ARGV[4], ARGV[5], ARGV[6], now()
local verdict = admit(id, token, user, ARGV[7], ARGV[8], ARGV[9], ARGV[10], false, at)
if verdict == 'denied' or verdict == 'replaced' then return {verdict} end
local fresh, quiet, wanted, answer = ARGV[11], ARGV[12] == '1', {}, {verdict}
for i = 13, #ARGV, 4 do
  local room, since, watch, ttl = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  wanted[room] = true
  stand(NODE, id, user, room, since, watch, quiet)
  if ttl ~= '' then hold(room, ttl, fresh, since, at) end
  local found = totals(room)
  answer[#answer + 1] = {room, found[1], found[2], found[3]}
end
for _, field in ipairs(call('HKEYS', k('c', id))) do
  if string.sub(field, 1, 2) == 'r:' and not wanted[string.sub(field, 3)] then
    vacate(NODE, id, user, string.sub(field, 3), at, NODE)
  end
end
return answer
