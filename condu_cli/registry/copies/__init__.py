"""Copies of a whole registry: snapshots, backups, archives."""
