"""The weight files of `mini`: found in installed packages, and checked."""

import hashlib
import importlib

import pytest

from condu_cli.backbone.models.embedded_weights import WeightFile
from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import BaseModelError

CONTENT = b"weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PACKAGE = "made_up_weights"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed weight package."""
    folder = tmp_path / PACKAGE
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "models" / "a.bin").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return folder


def test_the_file_is_found_inside_the_package(package):
    assert WeightFile(PACKAGE, "models/a.bin", SHA256).locate() == package / "models" / "a.bin"


def test_the_package_is_not_imported_for_that(package):
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    WeightFile(PACKAGE, "models/a.bin", SHA256).locate()


def test_a_missing_package_says_what_to_install():
    with pytest.raises(BaseModelError, match="which is not installed") as caught:
        WeightFile("no_such_package_anywhere", "a.bin", SHA256).locate()
    assert "pip install 'condu[mini]'" in hint_of(caught.value)


@pytest.mark.usefixtures("package")
def test_a_missing_file_says_what_to_reinstall():
    with pytest.raises(BaseModelError, match=r"models/b\.bin is missing") as caught:
        WeightFile(PACKAGE, "models/b.bin", SHA256).locate()
    assert "--force-reinstall made-up-weights" in hint_of(caught.value)


def test_another_file_is_refused_with_both_hashes(package):
    (package / "models" / "a.bin").write_bytes(b"other weights")
    with pytest.raises(BaseModelError, match="has sha256") as caught:
        WeightFile(PACKAGE, "models/a.bin", SHA256).locate()
    assert SHA256[:12] in caught.value.message
    assert hashlib.sha256(b"other weights").hexdigest()[:12] in caught.value.message
    assert "--force-reinstall made-up-weights" in hint_of(caught.value)
