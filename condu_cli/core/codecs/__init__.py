"""Codecs: how experts are encoded as one shared part and one part per task."""
