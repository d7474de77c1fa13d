"""The ports that the core declares, implemented."""
