"""What the nodes of a cluster know together, in Redis.

A `link` is the supervised way to one server of several; it opens one `session` after the other,
each of two connections, and `addresses` says where. `scripts` are what a server does as a whole.
Only modules of this package import redis.
"""
