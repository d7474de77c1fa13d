-- Makes the node one of those that are alive.
--
-- Args: the node's lease in ms.
--- @include parts/known

redis.call('ZADD', NODES, text(now + tonumber(ARGV[5])), SELF)
redis.call('HINCRBY', META, 'view', 1)
told({'view'})
return done({'done'})
