-- Only a node that the others take to be alive goes on from here.
--- @include basics

if not call('ZSCORE', B .. 'nodes', NODE) then return redis.error_reply('SWEPT') end
