"""The messages of `switchboard.v1` to and from the terms of the core, for every door."""
