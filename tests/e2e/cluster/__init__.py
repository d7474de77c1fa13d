"""A hub or a cluster of hubs under load, on which faults fall."""
