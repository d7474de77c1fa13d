"""What the nodes of a cluster know together, in Redis.

A `link` is the supervised way to one server of several; it opens one `session` after the other,
each of two connections, and `addresses` says where. `scripts` are what a server does as a
whole, in Lua (`lua/`). Only modules of this package import redis.

For realtime, `neighbours` is the whole: it keeps what Redis knows of this node's connections as it
is (`membership`), takes messages as they arrive (`lines`, `frames`), asks other nodes (`elsewhere`)
and tells who is there (`census`); each runs scripts (`realtime_scripts`) at the `desk`.

For the registry, `registry` is the store as the core sees it. `registry_following` keeps a node up
with it by what it hears (`registry_feed`), and by `registry_restoring` where Redis has lost it. All
ask at a `registry_place`, by `registry_scripts`.
"""
