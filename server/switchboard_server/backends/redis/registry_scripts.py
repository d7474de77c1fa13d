"""What the shared registry has Redis do, each script as a whole: this is where it is decided.

Every script gets the same keys, and first who asks (`SELF`, a node's token), which store it means
(`ID`, which another one has that begins empty) and the last stamp that it has seen. A store that
has another id or has not come that far is not the one that the node knows: Redis was emptied, or
has come back as it was some time ago. Then nothing is done, and the answer is `lost`. Nor is
anything done that arrives too late: a network may hold up what a node has given up long ago.

All times are milliseconds by the registry's own clock: Redis's less an offset, which grows by the
time in which no script ran, since then no node could reach Redis, and by each step of its clock.

An instance is kept as a JSON array of texts, because Lua's numbers hold no nanoseconds;
`registry_records` reads it. Every write has the next stamp, every change has the next revision as
well, and both are told on the channel as they are done, so that who hears a stamp left out knows
that something is missing.
"""

KEYS = ("meta", "instances", "due", "nodes", "held", "changes", "loads", "evicted", "removed")
"""Last parts of the names of the keys.

`meta`: a hash of what there is one of: id, revision, stamp, offset of the clock and so on.
`instances`: a hash, service/id to instance. `due`: a sorted set of those that run out, by when.
`nodes`: likewise of nodes. `held`: a sorted set of "node|service/id", in the order of their texts.
`changes`: a stream of the last changes, by revision. `loads`: a hash. `evicted`: a sorted set of
what ran out lately. `removed`: a hash, service/id to revision, of what may not be put back.
"""
HISTORY = 10_000
"""Changes that are kept for nodes that come back."""
MOST = 500
"""Instances that one run of a script evicts or frees at most: meanwhile Redis does nothing else."""
GAP_MS = 1000
"""No script for so long: nobody could reach Redis, since every node runs one twice as often."""
GRACE_MS = 3000
"""How long nodes and instances then have to be heard of, besides what they had left; after a short
gap as long as that."""
RESTORE_MS = 30_000
"""How long a store that began empty takes back what nodes know."""

_COMMON = (
    """
local META, ALL, DUE, NODES, HELD = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local LOG, LOADS, EVICTED, REMOVED = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local SELF, ID, CHANNEL = ARGV[1], ARGV[2], ARGV[4]
local seen, expires = string.match(ARGV[3], '^(%d+) (%d*)$')
local SEEN = tonumber(seen)
local SPEC, ADDRESS, REGISTRANT, STATUS, REASON, SINCE = 1, 2, 3, 4, 5, 6
local REGISTERED, REVISION, DECLARED, DECLARED_REASON = 7, 8, 9, 10
local CHECKED, CHECKED_REASON, LEASED, LEASE, HOLDER = 11, 12, 13, 14, 15
local CHECK, BIRTH, LEASE_UNTIL, UNHEALTHY_UNTIL = 16, 17, 18, 19
local UNCONFIRMED, STAMP, ORIGIN = 20, 21, 22
local SERVING, UNHEALTHY = '2', '5'
local DEREGISTERED, LEASE_EXPIRED, REAPED = '1', '2', '3'

local function text(number)
  return string.format('%.0f', number)
end

local time = redis.call('TIME')
local wall = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local wall_ns = string.format('%s%06d000', time[1], tonumber(time[2]))

local known = redis.call('HMGET', META, 'id', 'revision', 'stamp', 'offset', 'ran', 'view')
local revision, stamp = tonumber(known[2] or 0), tonumber(known[3] or 0)
"""
    f"local GAP, GRACE, HISTORY, MOST = {GAP_MS}, {GRACE_MS}, {HISTORY}, {MOST}"
    """
local offset, ran = tonumber(known[4] or 0), tonumber(known[5] or wall)
if wall < ran then
  offset = offset + wall - ran
elseif wall - ran > GAP then
  offset = offset + wall - ran + math.min(wall - ran, GRACE)
end
local now = wall - offset

local function told(message)
  redis.call('PUBLISH', CHANNEL, cjson.encode(message))
end

local function node_of(token)
  return string.match(token, '^(.*)/%d+$')
end

local function alive(node)
  local score = redis.call('ZSCORE', NODES, node)
  return score and tonumber(score) >= now
end

local function read(key)
  local found = redis.call('HGET', ALL, key)
  return found and cjson.decode(found)
end

local function leased(one)
  return one[LEASED] == '1' and one[HOLDER] == ''
end

local function deadline(one)
  local due = math.huge
  if one[UNHEALTHY_UNTIL] ~= '' then due = tonumber(one[UNHEALTHY_UNTIL]) end
  if leased(one) then due = math.min(due, tonumber(one[LEASE_UNTIL])) end
  return due
end

local function keep(key, one)
  stamp = stamp + 1
  one[STAMP] = text(stamp)
  redis.call('HSET', ALL, key, cjson.encode(one))
  local due = deadline(one)
  if due == math.huge then
    redis.call('ZREM', DUE, key)
  else
    redis.call('ZADD', DUE, text(due), key)
  end
end

local function touch(key, one)
  keep(key, one)
  told({'touched', text(stamp), one})
end

local function change(one, previous, cause, quiet)
  local message =
    {'changed', text(stamp), text(revision), text(wall), previous, cause, quiet, one}
  local encoded = cjson.encode(message)
  redis.call('XADD', LOG, 'MAXLEN', '~', HISTORY, text(revision) .. '-0', 'change', encoded)
  redis.call('PUBLISH', CHANNEL, encoded)
end

-- Makes a change of what has changed for others; see Directory._show.
local function show(key, one, reap, forced)
  local status, reason = one[CHECKED], one[CHECKED_REASON]
  if one[DECLARED] ~= '' then status, reason = one[DECLARED], one[DECLARED_REASON] end
  local previous = one[STATUS]
  if not forced and previous == status then return false end
  if previous ~= status then
    one[SINCE] = wall_ns
    one[UNHEALTHY_UNTIL] = status == UNHEALTHY and text(now + reap) or ''
  end
  one[STATUS], one[REASON] = status, reason
  revision = revision + 1
  one[REVISION] = text(revision)
  keep(key, one)
  change(one, previous, '', '')
  return true
end

local function release(key, one)
  if one[HOLDER] ~= '' then
    redis.call('ZREM', HELD, node_of(one[HOLDER]) .. '|' .. key)
    one[HOLDER] = ''
  end
end

local function drop(key, one, cause)
  release(key, one)
  redis.call('HDEL', ALL, key)
  redis.call('ZREM', DUE, key)
  redis.call('HDEL', LOADS, key)
  revision, stamp = revision + 1, stamp + 1
  change(one, one[STATUS], cause, '')
end

local function done(answer)
  redis.call('HSET', META, 'revision', text(revision), 'stamp', text(stamp),
    'offset', text(offset), 'ran', text(wall))
  return answer
end

local function answer(kind, one)
  return done({kind, cjson.encode(one)})
end
"""
)

_KNOWN = """
if known[1] ~= ID or stamp < SEEN then return {'lost'} end
-- It was under way for so long that who asked was told that it failed, and may have done otherwise.
if expires ~= '' and wall > tonumber(expires) then return {'stale'} end
"""

REGISTER = (
    _COMMON
    + _KNOWN
    + """
local key, spec, address, registrant, check = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local lease, most, reap = ARGV[10], tonumber(ARGV[11]), tonumber(ARGV[12])
local first, first_reason = ARGV[13], ARGV[14]
local one = read(key)
if not one then
  if redis.call('HLEN', ALL) >= most then return done({'full'}) end
  local birth = text(revision + 1)
  one = {spec, address, registrant, '', '', wall_ns, wall_ns, '', '', '', first, first_reason,
    check == '' and '1' or '0', lease, '', check, birth, text(now + tonumber(lease)), '', '', '',
    ''}
  show(key, one, reap, true)
  return answer('created', one)
end
local gone = one[STATUS] == UNHEALTHY or deadline(one) <= now
if not gone and one[ADDRESS] ~= address then return done({'conflict', one[ADDRESS]}) end
local same = one[SPEC] == spec and one[REGISTRANT] == registrant
local moved = one[ADDRESS] ~= address
if moved or one[CHECK] ~= check then
  one[CHECKED], one[CHECKED_REASON], one[BIRTH] = first, first_reason, text(revision + 1)
end
if moved then
  release(key, one)
  redis.call('HDEL', LOADS, key)
end
one[SPEC], one[ADDRESS], one[REGISTRANT], one[CHECK] = spec, address, registrant, check
local was_leased, was_unconfirmed = one[LEASED], one[UNCONFIRMED]
one[LEASE], one[LEASE_UNTIL], one[UNCONFIRMED] = lease, text(now + tonumber(lease)), ''
if one[HOLDER] == '' then one[LEASED] = check == '' and '1' or '0' end
if not show(key, one, reap, not same) then
  keep(key, one)
  if was_leased == one[LEASED] then
    told({'renewed', text(stamp), key, one[LEASE_UNTIL]})
  else
    told({'touched', text(stamp), one})
  end
end
return answer('renewed', one)
"""
)

HOLD = (
    _COMMON
    + _KNOWN
    + """
local key, token = ARGV[5], ARGV[6]
if not alive(SELF) then return done({'stranger'}) end
local one = read(key)
if not one then return done({'absent'}) end
if #ARGV > 6 then
  local expected = one[HOLDER] == ''
  for index = 8, #ARGV do
    if ARGV[index] == one[HOLDER] then expected = true end
  end
  if one[BIRTH] ~= ARGV[7] or not expected then return done({'taken'}) end
end
release(key, one)
one[HOLDER], one[LEASED], one[UNCONFIRMED] = token, '1', ''
one[LEASE_UNTIL] = text(now + tonumber(one[LEASE]))
redis.call('ZADD', HELD, 0, SELF .. '|' .. key)
touch(key, one)
return answer('held', one)
"""
)

LET_GO = (
    _COMMON
    + _KNOWN
    + """
local key, token, left = ARGV[5], ARGV[6], tonumber(ARGV[7])
local one = read(key)
if one and one[HOLDER] == token then
  release(key, one)
  one[LEASE_UNTIL] = text(now + left)
  touch(key, one)
end
return done({'done'})
"""
)

REMOVE = (
    _COMMON
    + _KNOWN
    + """
local one = read(ARGV[5])
if not one then return done({'absent'}) end
drop(ARGV[5], one, DEREGISTERED)
return done({'removed', text(revision)})
"""
)

DECLARE = (
    _COMMON
    + _KNOWN
    + """
local key, status, reason, reap = ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8])
local one = read(key)
if not one then return done({'absent'}) end
if one[DECLARED] ~= status or one[DECLARED_REASON] ~= reason then
  one[DECLARED], one[DECLARED_REASON] = status, reason
  local shown = status ~= '' and status or one[CHECKED]
  show(key, one, reap, one[STATUS] == shown)
end
return answer('declared', one)
"""
)

JUDGE = (
    _COMMON
    + _KNOWN
    + """
local view, reap = ARGV[5], tonumber(ARGV[6])
if not alive(SELF) then return done({'stranger'}) end
if known[6] ~= view then return done({'view'}) end
for index = 7, #ARGV, 4 do
  local key, birth, status, reason = ARGV[index], ARGV[index + 1], ARGV[index + 2], ARGV[index + 3]
  local one = read(key)
  if one and one[BIRTH] == birth then
    local news = one[CHECKED] ~= status
    if news then one[CHECKED], one[CHECKED_REASON] = status, reason end
    local shown = show(key, one, reap, false)
    -- A check does not bring back a lease that has run out.
    local confirmed = one[UNCONFIRMED] ~= '' and deadline(one) > now
    if confirmed then one[UNCONFIRMED] = '' end
    if confirmed or (news and not shown) then touch(key, one) end
  end
end
return done({'done'})
"""
)

REPORT = (
    _COMMON
    + _KNOWN
    + """
local loads = {}
for index = 5, #ARGV, 2 do
  if redis.call('HEXISTS', ALL, ARGV[index]) == 1 then
    redis.call('HSET', LOADS, ARGV[index], ARGV[index + 1])
    loads[#loads + 1] = {ARGV[index], ARGV[index + 1]}
  end
end
if #loads > 0 then told({'loads', loads}) end
return done({'done'})
"""
)

_LEAVE = """
-- Frees what a node holds, some of it: whether that was all.
local function free(node, left)
  local prefix = node .. '|'
  local members =
    redis.call('ZRANGEBYLEX', HELD, '[' .. prefix, '[' .. prefix .. '\\255', 'LIMIT', 0, MOST)
  for _, member in ipairs(members) do
    local key = string.sub(member, #prefix + 1)
    local one = read(key)
    if one and one[HOLDER] ~= '' and node_of(one[HOLDER]) == node then
      release(key, one)
      one[LEASE_UNTIL] = text(now + (left or tonumber(one[LEASE])))
      touch(key, one)
    end
    redis.call('ZREM', HELD, member)
  end
  return #members < MOST
end

local function leave(node)
  redis.call('ZREM', NODES, node)
  redis.call('HINCRBY', META, 'view', 1)
  told({'view'})
end
"""

JOIN = (
    _COMMON
    + _KNOWN
    + """
redis.call('ZADD', NODES, text(now + tonumber(ARGV[5])), SELF)
redis.call('HINCRBY', META, 'view', 1)
told({'view'})
return done({'done'})
"""
)

LEAVE = (
    _COMMON
    + _KNOWN
    + _LEAVE
    + """
if not free(SELF) then return done({'more'}) end
leave(SELF)
return done({'done'})
"""
)

TICK = (
    _COMMON
    + _KNOWN
    + _LEAVE
    + """
local lease, interval, seen_view, announced = ARGV[5], tonumber(ARGV[6]), ARGV[7], ARGV[8]
if not alive(SELF) then return done({'stranger'}) end
redis.call('ZADD', NODES, text(now + tonumber(lease)), SELF)

-- Of a node that has died, instances go at once: its lease was theirs.
for _, node in ipairs(redis.call('ZRANGEBYSCORE', NODES, '-inf', '(' .. text(now))) do
  if free(node, 0) then leave(node) end
end

local view = redis.call('HGET', META, 'view')
if announced ~= '' and seen_view == view then
  redis.call('HSET', META, 'announced', announced)
end

-- See core/registry/preservation.py; here it is judged over all nodes.
local function withheld(due)
  redis.call('ZREMRANGEBYSCORE', EVICTED, '-inf', text(now - interval))
  local evicted = redis.call('ZCARD', EVICTED)
  local before = redis.call('HLEN', ALL) + evicted
  return before >= 10 and due + evicted > 0.15 * before
end

local function expired(limit)
  local found = {}
  for _, key in ipairs(redis.call('ZRANGEBYSCORE', DUE, '-inf', text(now), 'LIMIT', 0, limit)) do
    found[#found + 1] = {key, read(key)}
  end
  return found
end

local due = redis.call('ZCOUNT', DUE, '-inf', text(now))
local since = redis.call('HGET', META, 'withheld_since') or ''
if due > 0 and withheld(due) then
  if since == '' then since = wall_ns end
  local before = redis.call('HGET', META, 'withheld')
  if before ~= text(due) then
    for _, each in ipairs(expired(10 * MOST)) do
      local key, one = each[1], each[2]
      if one[UNCONFIRMED] == '' then
        one[UNCONFIRMED] = '1'
        touch(key, one)
      end
    end
  end
else
  since = ''
  local gone = expired(MOST)
  for _, each in ipairs(gone) do
    local key, one = each[1], each[2]
    local cause = REAPED
    if leased(one) and tonumber(one[LEASE_UNTIL]) <= now then cause = LEASE_EXPIRED end
    drop(key, one, cause)
    redis.call('ZADD', EVICTED, text(now), text(revision))
  end
  due = due - #gone
end
redis.call('HSET', META, 'withheld_since', since, 'withheld', text(due))

-- When there is something to do again; what is withheld is looked at each time.
local from = since == '' and '-inf' or '(' .. text(now)
local following = redis.call('ZRANGEBYSCORE', DUE, from, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
local wait = following[2] and text(math.max(0, tonumber(following[2]) - now)) or ''
local answer = {'done', text(revision), text(stamp), text(wall), text(offset), since,
  since == '' and '0' or text(due), wait, view,
  redis.call('HGET', META, 'announced') or '0'}
if seen_view ~= view then
  for _, node in ipairs(redis.call('ZRANGE', NODES, 0, -1)) do answer[#answer + 1] = node end
end
return done(answer)
"""
)

POSITION = (
    _COMMON
    + _KNOWN
    + """
return done({'done', text(revision), text(stamp), text(wall), text(offset)})
"""
)

FOUND = (
    _COMMON + """
-- Begins a store, unless there is one that the node does not know better.
local id, know_revision, oldest = ARGV[5], tonumber(ARGV[6]), ARGV[7]
if known[1] and (known[1] ~= ID or stamp >= SEEN) then return {'there', known[1]} end
local view = tonumber(known[6] or 0) + 1
redis.call('DEL', META, ALL, DUE, NODES, HELD, LOG, LOADS, EVICTED, REMOVED)
"""
    f"local RESTORE = {RESTORE_MS}"
    """
-- The time is far ahead of any revision that was ever told, wherever that may have been.
revision, stamp = math.max(know_revision + 1000000, wall), math.max(SEEN + 1000000, wall)
offset = 0
redis.call('HSET', META, 'id', id, 'view', text(view), 'announced', text(revision),
  'previous', ID, 'oldest', ID ~= '' and oldest or '', 'base', text(know_revision),
  'until', text(wall + RESTORE))
for index = 8, #ARGV, 2 do redis.call('HSET', REMOVED, ARGV[index], ARGV[index + 1]) end
redis.call('PEXPIRE', REMOVED, RESTORE)
return done({'founded', id})
"""
)

RESTORE = (
    _COMMON
    + _KNOWN
    + """
-- Puts back what a node knows of a store that is lost; the newest knowledge of an instance stands.
local before, know_revision, oldest, node_lease = ARGV[5], tonumber(ARGV[6]), ARGV[7], ARGV[8]
local count = tonumber(ARGV[9])
local about = redis.call('HMGET', META, 'previous', 'oldest', 'until')
if wall > tonumber(about[3]) then return done({'late'}) end
if about[1] == '' then
  -- It was begun by a node that knew nothing.
  redis.call('HSET', META, 'previous', before, 'oldest', oldest)
  about[2] = oldest
  revision = math.max(revision, know_revision + 1000000)
elseif about[1] ~= before then
  return done({'late'})
end
-- What was removed before the oldest removal that is known, nobody could tell from what is missing.
if know_revision < tonumber(about[2]) then return done({'late'}) end
for index = 10, 9 + 2 * count, 2 do
  local key, at = ARGV[index], tonumber(ARGV[index + 1])
  if at > tonumber(redis.call('HGET', REMOVED, key) or 0) then
    redis.call('HSET', REMOVED, key, text(at))
  end
  local one = read(key)
  if one and one[ORIGIN] ~= '' and tonumber(one[ORIGIN]) < at then drop(key, one, DEREGISTERED) end
end
if count > 0 then redis.call('PEXPIRE', REMOVED, math.max(1, tonumber(about[3]) - wall)) end
for index = 10 + 2 * count, #ARGV, 4 do
  local key, one = ARGV[index], cjson.decode(ARGV[index + 1])
  local left, reap = tonumber(ARGV[index + 2]), ARGV[index + 3]
  local origin = tonumber(one[REVISION])
  local there = read(key)
  local removed = tonumber(redis.call('HGET', REMOVED, key) or 0)
  local newer = not there or (there[ORIGIN] ~= '' and tonumber(there[ORIGIN]) < origin)
  if newer and removed < origin then
    if there then release(key, there) end
    one[LEASE_UNTIL] = text(now + left)
    one[UNHEALTHY_UNTIL] = reap ~= '' and text(now + tonumber(reap)) or ''
    one[ORIGIN] = text(origin)
    revision = revision + 1
    one[REVISION] = text(revision)
    if one[HOLDER] ~= '' then
      -- Its node has its lease to come back, else it died with the store.
      local node = node_of(one[HOLDER])
      redis.call('ZADD', NODES, 'NX', text(now + tonumber(node_lease)), node)
      redis.call('ZADD', HELD, 0, node .. '|' .. key)
    end
    keep(key, one)
    change(one, there and there[STATUS] or '', '', '1')
  end
end
return done({'done'})
"""
)
