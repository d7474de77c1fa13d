"""The backend that needs no other server: one process, its log in SQLite or in memory."""
