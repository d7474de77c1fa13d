-- Makes a connection known that has just been opened.
--
-- Args: name, token, user, transport, peer, the node's name, when it was opened.
-- Returns "new", "known" or "denied".
--- @include parts/members
--- @include parts/alive

return admit(ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10], true, now())
