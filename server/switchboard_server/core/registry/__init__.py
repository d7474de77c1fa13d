"""The directory of services: who is registered, who serves, and who is told of it."""
