"""The hub itself: what clients can do, knowing no wire, no socket and no database.

`use_cases` is all of it, for the doors: `events`, `calls`, and the packages `groups`, `realtime`
and `registry`. `principal` says who asks and what that one may do, `errors` what can go wrong,
`paging`, `heartbeats` and `quotas` what all of them have in common.

An event comes in through `validation` and `publishing`, with `idempotency`, as `records`, into the
log of a backend (`ports`). Of that the newest part is in the `tail`, where a `router` finds whom a
batch is for, by their `filters`; each `subscription` is a cursor over both, and `waking` has them
read a few at a time. `listing` reads the history.

`cluster` spreads groups and calls over nodes; `failures` are errors that cross them.
"""
