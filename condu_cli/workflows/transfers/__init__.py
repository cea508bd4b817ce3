"""Models that come from or go to somewhere else: import, export, archives."""
