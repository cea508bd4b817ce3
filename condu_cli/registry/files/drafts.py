"""Names of files and folders that are being written, from which their writer can be told.

A draft is renamed into its place when it is whole. One that a crash has left behind may be
removed, but never one that is still being written, perhaps on another machine.
"""

import os
import re
import secrets
import socket
import time
from pathlib import Path

from condu_cli.registry.files.processes import is_running

STALE_SECONDS = 24 * 3600.0
"""After this time without a change, a draft of another machine is left over."""

_OWNER = re.compile(r"(?:^|-)(?P<host>[A-Za-z0-9_]{1,40})-(?P<pid>\d{1,10})-[0-9a-f]{16}(?:\.|$)")


def draft_name() -> str:
    """Return a new name that says which process on which machine is writing."""
    return f"{_host()}-{os.getpid()}-{secrets.token_hex(8)}"


def is_abandoned(draft: Path) -> bool:
    """Say whether the process that wrote a draft is gone."""
    match = _OWNER.search(draft.name)
    if match is not None and match["host"] == _host() and os.name != "nt":
        return not is_running(int(match["pid"]))
    try:
        return time.time() - draft.lstat().st_mtime > STALE_SECONDS
    except FileNotFoundError:
        return False


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())[:40] or "_"
