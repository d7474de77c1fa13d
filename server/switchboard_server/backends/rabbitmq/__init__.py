"""Many nodes over RabbitMQ: the log, the seats of what one node at a time does, and groups.

A `link` is one supervised connection, and opens each `channel`; frequent messages go past the
driver (`direct`, `encoding`, `frames`). `waiting` bounds every wait for the broker, `topology` says
what things are called, `declaring` makes them, and `joining` opens all that when RabbitMQ is there.

Nodes talk as `peers`: `requests` and what is told, as `packets` in an `outbox` for each node.
`attendance` and the `roster` know who is there and who holds what. A `seat` is held by one node at
a time, `balance` says by which. What its holders have to know is in a `journal`: two streams, each
read by a `track` and written by `filling`.

The `log` is a stream of `records`. What a node wants stored waits in `appends`; `forwarding` brings
it to the one that holds the seat of `sequencing`, which numbers `entries` but for those that were
accepted before; `scheduling` keeps those that are not due. Each node follows with its `tail` and
`following`, and reads `history` from a `stream`, by an `index`. `inlet` takes what others publish.

`carrying` is what `core.cluster` needs: messages, and a store (`groups`) for those of each seat.
"""
