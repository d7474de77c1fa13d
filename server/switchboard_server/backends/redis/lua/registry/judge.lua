-- Takes what checks have found.
--
-- Args: the view by which they were shared out, ms after which an unhealthy instance is removed,
-- and for each key, birth, status and reason.
-- Returns "done"; "view": there is another one; or "stranger": the node is taken for dead.
--- @include parts/known

local view, reap = ARGV[5], tonumber(ARGV[6])
if not alive(SELF) then return done({'stranger'}) end
if known[6] ~= view then return done({'view'}) end
for index = 7, #ARGV, 4 do
  local key, birth, status, reason = ARGV[index], ARGV[index + 1], ARGV[index + 2], ARGV[index + 3]
  local one = read(key)
  if one and one[BIRTH] == birth then
    local news = one[CHECKED] ~= status
    if news then one[CHECKED], one[CHECKED_REASON] = status, reason end
    local shown = show(key, one, reap, false)
    -- A check does not bring back a lease that has run out.
    local confirmed = one[UNCONFIRMED] ~= '' and deadline(one) > now
    if confirmed then one[UNCONFIRMED] = '' end
    if confirmed or (news and not shown) then touch(key, one) end
  end
end
return done({'done'})
