"""Immutable tensor files named by their sha256, and files kept until their commit."""
