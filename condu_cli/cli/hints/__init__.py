"""Hints: what to do next, made from an error's reason and facts in this one place."""
