"""Timestamps, in the one format that the registry stores."""

from datetime import datetime, timezone


def utc_now() -> str:
    """Return the time in UTC, as `2026-01-31T23:59:59.123456Z`; such texts sort by time."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
