"""What nodes ask Redis about who is there: scripts in Lua; see `realtime_lua` for the keys."""

from switchboard_server.backends.redis.realtime_lua import BASICS, HISTORIES

FIND = (
    BASICS
    + """
local answer = {}
for i = 4, #ARGV do
  local c = call('HMGET', k('c', ARGV[i]), 'n', 'u', 'k')
  if c[1] and c[1] ~= NODE then answer[#answer + 1] = {ARGV[i], c[1], c[2], c[3]} end
end
return answer
"""
)
"""Args: names. Returns for those on other nodes name, node, user and token."""

HOSTS = (
    BASICS
    + """
local seen, answer = {}, {}
for i = 4, #ARGV do
  for _, node in ipairs(call('HKEYS', k('un', ARGV[i]))) do
    if node ~= NODE and not seen[node] then
      seen[node] = true
      answer[#answer + 1] = node
    end
  end
end
return answer
"""
)
"""Args: users. Returns the other nodes on which they have connections."""

ROOM_NAMES = (
    BASICS
    + """
local answer = {}
for i, set in ipairs({'rooms', 'kept'}) do
  answer[i] = call('ZRANGEBYLEX', B .. set, ARGV[4], ARGV[5], 'LIMIT', 0, ARGV[6])
end
return answer
"""
)
"""Args: from, to, limit. Returns the first rooms in which somebody stands, and the first that
remember something."""

ROOMS = (
    BASICS
    + HISTORIES
    + """
local answer, at = {}, now()
for i = 4, #ARGV do
  local room = ARGV[i]
  local made = call('HGET', k('r', room), 't')
  local epoch, offset, length = history(room, at)
  if made or (length or 0) > 0 then
    local began = epoch and call('HGET', k('h', room), 't') or made
    if made and made < began then began = made end
    answer[#answer + 1] = {call('ZCARD', k('m', room)), call('HLEN', k('u', room)),
      epoch or '', offset or 0, length or 0, began}
  else
    answer[#answer + 1] = false
  end
end
return answer
"""
)
"""Args: rooms. Returns for each connections, users, epoch, offset, length, and when it was made; or
nothing."""

MEMBERS = (
    BASICS
    + """
local answer = {}
for _, id in ipairs(call('ZRANGEBYLEX', k('m', ARGV[4]), ARGV[5], '+', 'LIMIT', 0, ARGV[6])) do
  local c = call('HMGET', k('c', id), 'u', 'r:' .. ARGV[4])
  answer[#answer + 1] = {id, c[1] or '', c[2] or '0'}
end
return answer
"""
)
"""Args: room, from, limit. Returns for each name, user, and when it joined."""

USER_NAMES = (
    BASICS
    + """
if ARGV[4] ~= '' then return call('HKEYS', k('u', ARGV[4])) end
return call('ZRANGEBYLEX', B .. 'users', ARGV[5], '+', 'LIMIT', 0, ARGV[6])
"""
)
"""Args: room, from, limit. Returns the users online; with a room, all in it and in no order."""

USERS = (
    BASICS
    + """
local room, answer = ARGV[4], {}
for i = 5, #ARGV do
  local count, since = 0, ''
  for _, id in ipairs(call('ZRANGE', k('user', ARGV[i]), 0, -1)) do
    local at = call('HGET', k('c', id), room == '' and 's' or 'r:' .. room)
    if at then
      count = count + 1
      if since == '' or at < since then since = at end
    end
  end
  answer[#answer + 1] = {count, since}
end
return answer
"""
)
"""Args: room ("": anywhere), and users. Returns for each how many connections, and since when."""

CONNECTIONS = (
    BASICS
    + """
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
"""
)
"""Args: the sorted set, from, to, the name before the page, limit, and user and transport that are
wanted ("": any). Returns how many match, and the first with all that is known of each."""

LATEST = (
    BASICS
    + HISTORIES
    + """
local epoch, offset = history(ARGV[4], now())
if not epoch then return {'', 0, {}} end
return {epoch, offset, call('LRANGE', k('l', ARGV[4]), '-' .. ARGV[5], -1)}
"""
)
"""Args: room, limit. Returns epoch, offset, and the latest messages."""

AFTER = (
    BASICS
    + HISTORIES
    + """
local found, offset = after(ARGV[4], ARGV[5], tonumber(ARGV[6]), now())
return {offset or 0, found or false}
"""
)
"""Args: room, epoch, offset. Returns the offset of the last message, and what followed, or
nothing."""
