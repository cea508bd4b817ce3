"""A codec of thirty lines next to the package's own, and the program in this process."""

import json
from types import SimpleNamespace

import pytest
from thirty_line_codec import PlainCodec

from condu_cli.core.codecs.known import CODECS
from condu_cli.main import main


@pytest.fixture(autouse=True)
def _plain_codec(monkeypatch):
    monkeypatch.setitem(CODECS, PlainCodec.name, PlainCodec)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "registry"


@pytest.fixture
def condu(path, monkeypatch, capsys):
    """Run condu in this process on the registry, and read the JSON that it prints."""
    monkeypatch.setenv("CONDU_REGISTRY", str(path))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")

    def run(*args):
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(list(args))
        out = capsys.readouterr().out
        assert caught.value.code == 0
        return SimpleNamespace(text=out, json=json.loads(out) if "--json" in args else None)

    return run
