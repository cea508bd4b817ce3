"""The base models themselves: the embedded `mini` and open_clip's architectures."""
