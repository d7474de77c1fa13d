-- What becomes of nodes that are gone.
--- @include known

-- Frees what a node holds, some of it: whether that was all.
local function free(node, left)
  local prefix = node .. '|'
  local members =
    redis.call('ZRANGEBYLEX', HELD, '[' .. prefix, '[' .. prefix .. '\255', 'LIMIT', 0, MOST)
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

-- Makes a node none of those that are alive.
local function leave(node)
  redis.call('ZREM', NODES, node)
  redis.call('HINCRBY', META, 'view', 1)
  told({'view'})
end
