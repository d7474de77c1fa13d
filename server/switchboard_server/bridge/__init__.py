"""The HTTP and WebSocket door.

`http` is the port: pages, `assets`, and WebSockets, which it hands to `websocket`. That reads the
`handshake` and has a `session` serve each `connection`, with `keepalive` and `rates` to end it.

A client's `frames` are obeyed by `commands`: `event_commands`, `room_commands` and `listing`, which
see the `client` only. What it is sent are `messages` of the realtime hub and its `subscriptions` of
events (`event_json`), written by `flushing`, and by `fan_out` where many get the same. How a
failure is told, `errors` says.
"""
