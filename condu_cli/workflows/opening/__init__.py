"""Open what a command works on: the registry, its base model, a pinned session."""
