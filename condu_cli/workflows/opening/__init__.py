"""What a command opens before it works: the registry, its base model, a pinned session."""
