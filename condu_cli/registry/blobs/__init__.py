"""Immutable tensors in files named by their sha256, and files kept before a commit."""
