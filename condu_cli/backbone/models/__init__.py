"""Base models: the embedded `mini` and open_clip's architectures."""
