"""The hub beside its peers: what `scripts/bench` measures."""
