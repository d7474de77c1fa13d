-- Only a node that the others take to be alive goes on from here.
--- @include basics

local until_ms = tonumber(call('ZSCORE', B .. 'nodes', NODE) or 0)
if until_ms == 0 then return redis.error_reply('SWEPT') end
