-- What every script of the shared registry begins with.
--
-- Before what its own comment calls Args, each gets who asks (SELF, a node's token), which store it
-- means (ID, which another one has that begins empty), the last stamp that it has seen with the
-- time after which it is too late (ms by Redis's clock; none: it never is), and the channel. A
-- store that has another id or has not come that far is not the one that the node knows: Redis was
-- emptied, or has come back as it was some time ago. Then nothing is done, and the answer is
-- "lost". Nor is anything done that arrives too late: a network may hold up what a node has given
-- up long ago. Every answer begins with a word that says what happened.
--
-- All times are milliseconds by the registry's own clock: Redis's less an offset, which grows by
-- the time in which no script ran, since then no node could reach Redis, and by each step of its
-- clock.
--
-- An instance is a JSON array of texts, because Lua's numbers hold no nanoseconds. Every write has
-- the next stamp, every change has the next revision as well, and both are told on the channel as
-- they are done, so that who hears a stamp left out knows that something is missing.
--
-- GAP, GRACE, HISTORY, MOST and RESTORE come from registry_scripts.py.

-- META: a hash of what there is one of: id, revision, stamp, offset of the clock and so on.
-- ALL: a hash, service/id to instance. DUE: a sorted set of those that run out, by when.
-- NODES: likewise of nodes. HELD: a sorted set of "node|service/id", in the order of their texts.
-- LOG: a stream of the last changes, by revision. LOADS: a hash, service/id to load.
-- EVICTED: a sorted set of what ran out lately. REMOVED: a hash, service/id to the revision of its
-- removal, of what may not be put back.
local META, ALL, DUE, NODES, HELD = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local LOG, LOADS, EVICTED, REMOVED = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local SELF, ID, CHANNEL = ARGV[1], ARGV[2], ARGV[4]
local seen, expires = string.match(ARGV[3], '^(%d+) (%d*)$')
local SEEN = tonumber(seen)
-- The places in an instance's array; registry_records.py has them as well.
local SPEC, ADDRESS, REGISTRANT, STATUS, REASON, SINCE = 1, 2, 3, 4, 5, 6
local REGISTERED, REVISION, DECLARED, DECLARED_REASON = 7, 8, 9, 10
local CHECKED, CHECKED_REASON, LEASED, LEASE, HOLDER = 11, 12, 13, 14, 15
local CHECK, BIRTH, LEASE_UNTIL, UNHEALTHY_UNTIL = 16, 17, 18, 19
local UNCONFIRMED, STAMP, ORIGIN = 20, 21, 22
local UNHEALTHY = '5'
local DEREGISTERED, LEASE_EXPIRED, REAPED = '1', '2', '3'

local function text(number)
  return string.format('%.0f', number)
end

local time = redis.call('TIME')
local wall = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local wall_ns = string.format('%s%06d000', time[1], tonumber(time[2]))

local known = redis.call('HMGET', META, 'id', 'revision', 'stamp', 'offset', 'ran', 'view')
local revision, stamp = tonumber(known[2] or 0), tonumber(known[3] or 0)
local offset, ran = tonumber(known[4] or 0), tonumber(known[5] or wall)
if wall < ran then
  offset = offset + wall - ran
elseif wall - ran > GAP then
  offset = offset + wall - ran + math.min(wall - ran, GRACE)
end
local now = wall - offset

-- Tells all nodes something.
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

-- Whether a lease runs: while a stream holds an instance, it is the stream that counts.
local function leased(one)
  return one[LEASED] == '1' and one[HOLDER] == ''
end

-- When an instance runs out, for lack of a renewal or as unhealthy.
local function deadline(one)
  local due = math.huge
  if one[UNHEALTHY_UNTIL] ~= '' then due = tonumber(one[UNHEALTHY_UNTIL]) end
  if leased(one) then due = math.min(due, tonumber(one[LEASE_UNTIL])) end
  return due
end

-- Writes an instance.
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

-- Writes what of an instance only hubs see.
local function touch(key, one)
  keep(key, one)
  told({'touched', text(stamp), one})
end

-- Tells of a change, whose revision and stamp have been counted. Quiet: it is only put back.
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

-- Takes an instance from the stream that holds it.
local function release(key, one)
  if one[HOLDER] ~= '' then
    redis.call('ZREM', HELD, node_of(one[HOLDER]) .. '|' .. key)
    one[HOLDER] = ''
  end
end

-- Removes an instance.
local function drop(key, one, cause)
  release(key, one)
  redis.call('HDEL', ALL, key)
  redis.call('ZREM', DUE, key)
  redis.call('HDEL', LOADS, key)
  revision, stamp = revision + 1, stamp + 1
  change(one, one[STATUS], cause, '')
end

-- Ends a script that may have written.
local function done(answer)
  redis.call('HSET', META, 'revision', text(revision), 'stamp', text(stamp),
    'offset', text(offset), 'ran', text(wall))
  return answer
end

-- Ends a script with an instance.
local function answer(kind, one)
  return done({kind, cjson.encode(one)})
end
