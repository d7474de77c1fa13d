-- Args: rooms.
-- Returns for each connections, users, epoch, offset, length, and when it was made; or nothing.
--- @include parts/histories

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
