"""Consumer groups and calls that are spread over nodes."""
