-- Lets go of all that the node holds, and of the node.
--
-- Returns "done", or "more": to be called again.
--- @include parts/leaving

if not free(SELF) then return done({'more'}) end
leave(SELF)
return done({'done'})
