"""The directory of services: who is registered, who serves, and who is told of it.

`registry` is what clients can do. It answers from a `roster` of `entries`, by `discovery` with
`picking`, by `overview`, and by `watching`; `announcing` publishes what changes as events. `model`
says what an instance is, `validation`, `semver`, `targets` and `networks` what it may be, `leases`
how it is held, `checking` when it is tried, and `ports` what tries it and keeps it.

There are two. `local` stands alone: it decides in its `directory`, with `preservation` and
`sweeping`, and keeps that by `saving`. `shared` follows a place that decides for all nodes, whose
port is `sharing`: `replica` is its copy, `holding` and `inspecting` say what this node does for the
others, by `ownership`, `errands` tell it until it is told, and `reaching` waits until it is heard.
"""
