"""Messages for whoever is connected now: connections, users, rooms, and what waits for each.

`hub` is what clients can do, with `looking` for its listings; `wishes` goes into it and `views`
come out. A `connection` has an `outbox`, bounded, of `items`: `messages`, `notices` of who joined
and left a room, and words about the connection; what goes to many at once waits in `rounds`.
`rooms` knows who stands where, `history` is the port that keeps what rooms remember, and `checks`
say what names, contents and targets are like.

All that is one node's. `neighbours` is the port to the others; `alone` is that of a hub that has
none, and `local_census` what it answers of who is there.
"""
