"""Thin commands, one module per noun, and the output sink."""
