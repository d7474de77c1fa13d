-- Puts back what a node knows of a store that is lost; the newest knowledge of an instance stands.
--
-- Args: the id of the lost store, the revision and the oldest removal that the node knows, the
-- lease in ms of the nodes that held something, how many removals, each key and revision, and for
-- each instance key, itself, ms left of its lease, and ms until it is removed as unhealthy ("": it
-- is not).
-- Returns "done", or "late": this knowledge is not wanted any more.
--- @include parts/known

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
