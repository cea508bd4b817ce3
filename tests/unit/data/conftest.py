"""Faults of folders that root cannot have."""

import os
from pathlib import Path

import pytest

from condu_cli.data.pictures import walking


@pytest.fixture
def unreadable(monkeypatch):
    """Make folders of a name ones that may not be read."""
    scandir = os.scandir

    def make(name: str) -> None:
        def guarded(path):
            if Path(path).name == name:
                raise PermissionError(13, "Permission denied")
            return scandir(path)

        monkeypatch.setattr(walking.os, "scandir", guarded)

    return make
