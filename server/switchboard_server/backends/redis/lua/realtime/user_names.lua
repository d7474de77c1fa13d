-- Args: room, from, limit.
-- Returns the users online; with a room, all in it and in no order.
--- @include parts/basics

if ARGV[4] ~= '' then return call('HKEYS', k('u', ARGV[4])) end
return call('ZRANGEBYLEX', B .. 'users', ARGV[5], '+', 'LIMIT', 0, ARGV[6])
