"""The streaming loops over all parameters: compiled, and as array operations."""
