-- How far the registry has come.
--
-- Returns "done", revision, stamp, Redis's time, and the offset of the registry's clock.
--- @include parts/known

return done({'done', text(revision), text(stamp), text(wall), text(offset)})
