-- Args: room, limit.
-- Returns epoch, offset, and the latest messages.
--- @include parts/histories

local epoch, offset = history(ARGV[4], now())
if not epoch then return {'', 0, {}} end
return {epoch, offset, call('LRANGE', k('l', ARGV[4]), '-' .. ARGV[5], -1)}
