"""Drafts: files and folders being written, whose names identify the writing process.

A complete draft is renamed into place. One that a crash has left behind may be removed, but never
one that is still being written, perhaps on another machine.
"""

import os
import re
import secrets
import socket
import time
from pathlib import Path

from condu_cli.registry.files.processes import is_running

STALE_SECONDS = 24 * 3600.0
"""A draft from another machine is abandoned if it has not changed for this long."""

_NAME = r"(?P<host>[A-Za-z0-9_]{1,40})-(?P<pid>\d{1,10})-[0-9a-f]{16}"
_OWNER = re.compile(rf"(?:^|-){_NAME}(?:\.|$)")


def draft_name() -> str:
    """Return a new name that identifies the writing process and its machine."""
    return f"{_host()}-{os.getpid()}-{secrets.token_hex(8)}"


def is_draft_name(text: str) -> bool:
    """Whether a text is a name by `draft_name`, and nothing else."""
    return re.fullmatch(_NAME, text) is not None


def is_draft(path: Path) -> bool:
    """Whether a file or folder has the name of a draft."""
    return _OWNER.search(path.name) is not None


def is_abandoned(draft: Path) -> bool:
    """Return whether this is a draft whose writer is gone."""
    match = _OWNER.search(draft.name)
    if match is None:  # not written by condu
        return False
    if match["host"] == _host() and os.name != "nt":
        return not is_running(int(match["pid"]))
    try:
        return time.time() - draft.lstat().st_mtime > STALE_SECONDS
    except FileNotFoundError:
        return False


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())[:40] or "_"
