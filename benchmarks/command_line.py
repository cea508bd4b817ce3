"""Run condu's commands as a user would, for the other benchmarks."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def condu(registry: Path, *arguments: object) -> Any:
    """Run a command and return the last line of its JSON output."""
    command = [sys.executable, "-m", "condu_cli", *map(str, arguments)]
    done = subprocess.run(  # noqa: S603
        [*command, "--json", "--registry", str(registry)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])
