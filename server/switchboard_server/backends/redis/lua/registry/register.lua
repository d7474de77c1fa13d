-- Registers an instance, or renews it.
--
-- Args: key, specification, address, registrant, check ("": none), lease in ms, most instances, ms
-- after which an unhealthy one is removed, and the first verdict, status and reason.
-- Returns "created" or "renewed" and the instance; "full"; or "conflict" and the address that has
-- it.
--- @include parts/known

local key, spec, address, registrant, check = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local lease, most, reap = ARGV[10], tonumber(ARGV[11]), tonumber(ARGV[12])
local first, first_reason = ARGV[13], ARGV[14]
local one = read(key)
if not one then
  if redis.call('HLEN', ALL) >= most then return done({'full'}) end
  local birth = text(revision + 1)
  one = {spec, address, registrant, '', '', wall_ns, wall_ns, '', '', '', first, first_reason,
    check == '' and '1' or '0', lease, '', check, birth, text(now + tonumber(lease)), '', '', '',
    ''}
  show(key, one, reap, true)
  return answer('created', one)
end
local gone = one[STATUS] == UNHEALTHY or deadline(one) <= now
if not gone and one[ADDRESS] ~= address then return done({'conflict', one[ADDRESS]}) end
local same = one[SPEC] == spec and one[REGISTRANT] == registrant
local moved = one[ADDRESS] ~= address
if moved or one[CHECK] ~= check then
  one[CHECKED], one[CHECKED_REASON], one[BIRTH] = first, first_reason, text(revision + 1)
end
if moved then
  release(key, one)
  redis.call('HDEL', LOADS, key)
end
one[SPEC], one[ADDRESS], one[REGISTRANT], one[CHECK] = spec, address, registrant, check
local was_leased, was_unconfirmed = one[LEASED], one[UNCONFIRMED]
one[LEASE], one[LEASE_UNTIL], one[UNCONFIRMED] = lease, text(now + tonumber(lease)), ''
if one[HOLDER] == '' then one[LEASED] = check == '' and '1' or '0' end
if not show(key, one, reap, not same) then
  keep(key, one)
  if was_leased == one[LEASED] then
    told({'renewed', text(stamp), key, one[LEASE_UNTIL]})
  else
    told({'touched', text(stamp), one})
  end
end
return answer('renewed', one)
