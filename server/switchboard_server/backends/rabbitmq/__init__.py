"""Many nodes over RabbitMQ: the log, the seats of what one node at a time does, and groups."""
