"""The program in this process: `condu(*args)` gives its exit code and what it printed."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from condu_cli.main import main


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture
def condu(tmp_path, monkeypatch, capsys):
    """Run condu here with a clean environment; the registry is `tmp_path/registry`."""
    for name in ("CONDU_BASE", "CONDU_DATA", "CONDU_DEBUG", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CONDU_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")

    def run(*args: object) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Ran(caught.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def colours(tmp_path, make_pictures) -> Path:
    return make_pictures(tmp_path / "colours", ("blue", "red"), 5, 16)


@pytest.fixture
def learned(condu, colours):
    """A registry in the default place with one task, `warm`."""
    ran = condu("learn", "--task", "warm", "--data", colours, "--base", "tiny", "--iterations", 2)
    assert ran.code == 0, ran.err
    return ran
