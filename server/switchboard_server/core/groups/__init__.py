"""Consumer groups: work that is shared, acknowledged, retried, and given up in the end.

`hub` is what clients can do, upon `settling` and the `shelf` that has the groups; `letters` is what
they can do with dead letters. `serving` is the port of both for the doors, since groups may also be
spread over nodes. `listing` and `reports` show how groups are.

A `group` at work holds a `ledger`, which decides everything and does no input or output: what is
`ready`, who holds which delivery (`leases`, by `ack_ids`), when something is due (`alarms`), and
which keys are whose (`lines`). Around it, `reading` brings events ahead of their turn, `membership`
is the stream of one member, `saving` keeps `changes`, and `burial` what is given up; `fetching`
gets an event's bytes once more. `ports` is what keeps all that, `entries` and `config` what it is
about, `moving` how a group leaves for another node.
"""
