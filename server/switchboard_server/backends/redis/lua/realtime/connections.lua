-- A page of connections.
--
-- Args: the sorted set, from, to, the name before the page, limit, and user and transport that are
-- wanted ("": any).
-- Returns how many match, and the first with all that is known of each.
--- @include parts/basics

local base, from, to, after, limit = ARGV[4], ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8])
local user, transport = ARGV[9], ARGV[10]
local key = B .. base
local names, total = {}, 0
-- Lua compares by the server's locale, sorted sets by bytes: places are compared, not names.
local skipped = after ~= '' and call('ZLEXCOUNT', key, from, '[' .. after) or 0
if user == '' and transport == '' then
  total = call('ZLEXCOUNT', key, from, to)
  names = call('ZRANGEBYLEX', key, from, to, 'LIMIT', skipped, limit)
else
  for i, id in ipairs(call('ZRANGEBYLEX', key, from, to)) do
    local c = call('HMGET', k('c', id), 'u', 't')
    if (user == '' or c[1] == user) and (transport == '' or c[2] == transport) then
      total = total + 1
      if i > skipped and #names < limit then names[#names + 1] = id end
    end
  end
end
local found = {}
for _, id in ipairs(names) do found[#found + 1] = {id, call('HGETALL', k('c', id))} end
return {total, found}
