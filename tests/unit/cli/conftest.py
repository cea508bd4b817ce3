"""The program in this process: `condu(*args)` returns its exit code and output."""

import contextlib
import io
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from condu_cli.main import main

LEARN = ("learn", "--task", "warm", "--base", "tiny", "--iterations", "2")


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


def clean(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Nothing of the caller's settings; the registry and the cache are in `folder`."""
    for name in ("CONDU_BASE", "CONDU_DATA", "CONDU_DEBUG", "FORCE_COLOR"):
        patch.delenv(name, raising=False)
    patch.setenv("CONDU_REGISTRY", str(folder / "registry"))
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    patch.setenv("NO_COLOR", "1")
    patch.setenv("COLUMNS", "100")


@pytest.fixture
def condu(tmp_path, monkeypatch, capsys):
    """Run condu here with a clean environment; the registry is `tmp_path/registry`."""
    clean(monkeypatch, tmp_path)

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


@pytest.fixture(scope="session")
def learned_once(tmp_path_factory, make_pictures) -> tuple[Path, Ran]:
    """The registry that tests copy, and what its `condu learn` printed."""
    folder = tmp_path_factory.mktemp("learned")
    colours = make_pictures(folder / "colours", ("blue", "red"), 5, 16)
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        clean(patch, folder)
        with pytest.raises(SystemExit) as caught:
            main([*LEARN, "--data", str(colours)])
    ran = Ran(caught.value.code, out.getvalue(), err.getvalue())
    assert ran.code == 0, ran.err
    return folder / "registry", ran


@pytest.fixture
def learned(learned_once, tmp_path) -> Ran:
    """A registry in the default place with one task, `warm`; and what learning it printed."""
    registry, ran = learned_once
    shutil.copytree(registry, tmp_path / "registry")
    return ran
