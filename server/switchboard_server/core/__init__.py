"""The hub itself: what clients can do, knowing no wire, no socket and no database."""
