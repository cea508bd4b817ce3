"""The program as a user runs it: a separate process that works on one registry."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from condu_cli.main import main

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class Done:
    """The result of a finished command."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """The lines of its JSON, without progress events."""
        assert self.returncode == 0, self.stderr
        lines = [json.loads(line) for line in self.stdout.splitlines()]
        return [line for line in lines if "event" not in line]


def program_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """The whole program without a new interpreter: importing torch takes long.

    It runs in `folder`, on the registry `folder/registry`.
    """
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CONDU_REGISTRY", str(folder / "registry"))
    monkeypatch.delenv("CONDU_DATA", raising=False)

    def run(*arguments: object) -> Done:
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return Done(left.value.code, printed.out, printed.err)

    return run


class Condu:
    """Runs `condu` in a folder, on the registry `folder/registry`."""

    def __init__(self, condu_in: Callable[[Path], Any], folder: Path) -> None:
        self.folder = folder
        self.registry = folder / "registry"
        self._run = condu_in(folder)

    def run(self, *arguments: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever its exit code."""
        done: subprocess.CompletedProcess[str] = self._run(
            *arguments,
            stdin=stdin,
            env={"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "")},
        )
        return done

    def ok(self, *arguments: object) -> str:
        """Run a command that must succeed; return its standard output."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def lines(self, *arguments: object) -> list[Any]:
        """All the lines of a command's JSON output."""
        return [json.loads(line) for line in self.ok(*arguments, "--json").splitlines()]

    def json(self, *arguments: object) -> Any:
        """The last line of a command's JSON output."""
        return self.lines(*arguments)[-1]
