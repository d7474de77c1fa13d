-- What every node does all the time: says that it lives, and looks after what has run out.
--
-- Args: the node's lease in ms, the interval in ms over which evictions are counted, the view that
-- it knows, and the revision up to which all has been announced ("": it announces nothing).
-- Returns "done", revision, stamp, Redis's time, offset of the clock, since when instances are
-- withheld ("": none are) and how many, ms until there is something to do ("": nothing is due), the
-- view, the revision announced; and where the view is another one, its nodes. Or "stranger": the
-- node is taken for dead.
--- @include parts/leaving

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
