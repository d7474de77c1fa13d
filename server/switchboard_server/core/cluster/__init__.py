"""Consumer groups and calls that are spread over nodes.

Each group has one of a few `seats`, and the node that holds it serves the group. `groups` and
`letters` are what clients can do, on whichever node they are: `asking` finds who has a group.
`holdings` are the seats of this node, each a `holding` with a hub of groups of its own.

A member's stream stays on the node of its client: there it is `roaming`, and `streams` has all of
them; where its group is, it is one of the `guests`. `responders` says who answers calls. `messages`
is what nodes say to each other about all that, and `ports` what carries it.
"""
