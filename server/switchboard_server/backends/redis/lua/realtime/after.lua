-- Args: room, epoch, offset.
-- Returns the offset of the last message, and what followed, or nothing.
--- @include parts/histories

local found, offset = after(ARGV[4], ARGV[5], tonumber(ARGV[6]), now())
return {offset or 0, found or false}
