-- Takes the loads that instances report.
--
-- Args: for each key and load.
--- @include parts/known

local loads = {}
for index = 5, #ARGV, 2 do
  if redis.call('HEXISTS', ALL, ARGV[index]) == 1 then
    redis.call('HSET', LOADS, ARGV[index], ARGV[index + 1])
    loads[#loads + 1] = {ARGV[index], ARGV[index + 1]}
  end
end
if #loads > 0 then told({'loads', loads}) end
return done({'done'})
