"""Trying instances: HTTP, the gRPC health protocol, and TCP."""
