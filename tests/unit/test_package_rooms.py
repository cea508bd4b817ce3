"""Rooms stay small enough to take in at a glance, and files to read in one sitting."""

from pathlib import Path

import pytest

import condu_cli

PACKAGE = Path(condu_cli.__file__).parent
ROOMS = sorted(path.parent for path in PACKAGE.rglob("__init__.py"))
MOST_FILES = 16
MOST_LINES = 450


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(PACKAGE)))
def test_a_room_holds_few_files_and_no_long_ones(room: Path) -> None:
    files = [path for path in room.glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= MOST_FILES
    lines = {path.name: len(path.read_text("utf-8").splitlines()) for path in files}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}
