"""Consumer groups: work that is shared, acknowledged, retried, and given up in the end."""
