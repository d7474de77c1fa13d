-- Reads what followed in several rooms.
--
-- Args: about how many bytes to return at most, and for each room its name and the place after
-- which to read, epoch and offset.
-- Returns for each its epoch and offset now, and what was asked, or nothing.
--- @include parts/histories

local at, budget, answer = now(), tonumber(ARGV[4]), {}
for i = 5, #ARGV, 3 do
  local room, found = ARGV[i], false
  if budget > 0 then found = after(room, ARGV[i + 1], tonumber(ARGV[i + 2]), at) or false end
  if found then
    for _, each in ipairs(found) do budget = budget - #each end
  end
  local epoch, offset = history(room, at)
  answer[#answer + 1] = {epoch or '', offset or 0, found}
end
return answer
