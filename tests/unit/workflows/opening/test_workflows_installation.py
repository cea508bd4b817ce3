"""The doctor: the faults it finds, and its advice."""

import subprocess
from importlib.metadata import PackageNotFoundError

import pytest

from condu_cli.cli.hints.making import hint_for
from condu_cli.errors import BaseModelError
from condu_cli.workflows.opening import installation
from condu_cli.workflows.opening.installation import (
    Check,
    _check_compiler,
    _check_library,
    _check_mini,
    _check_registry,
    _check_space,
    _explain_torchvision,
    examine,
)

NMS = "0.29.2 does not import: RuntimeError: operator torchvision::nms does not exist"


@pytest.fixture
def imports(monkeypatch):
    """Make imports in separate processes end this way: `imports(code, stderr)`."""

    def end(code: int, stderr: str = ""):
        monkeypatch.setattr(installation, "version", lambda _: "1.2.3")
        monkeypatch.setattr(
            subprocess,
            "run",
            lambda command, **_: subprocess.CompletedProcess(command, code, "", stderr),
        )

    return end


def test_a_library_that_imports_is_ok(imports):
    imports(0)
    assert _check_library("torch") == Check("torch", True, "1.2.3")


def test_a_library_that_does_not_import_shows_the_last_line(imports):
    imports(1, "Traceback…\n  File …\nImportError: libcudart.so.13: cannot open\n")
    check = _check_library("open_clip")
    assert not check.ok
    assert check.detail == "1.2.3 does not import: ImportError: libcudart.so.13: cannot open"
    assert hint_for(check.failure, check.facts) == "pip install --force-reinstall open_clip_torch"


def test_a_library_that_ends_the_process_is_found_too(imports):
    imports(-11)
    assert "exit code -11" in _check_library("torch").detail


def test_a_missing_compiler_only_makes_things_slower(imports):
    imports(1, "ImportError: Numba needs NumPy 2.4 or less")
    check = _check_compiler()
    assert check.ok
    assert "Numba needs NumPy" in check.detail
    assert check.detail.endswith("unify runs as array operations, slower")


def test_a_compiler_that_imports_is_shown_with_its_version(imports):
    imports(0)
    assert _check_compiler() == Check("numba", True, "1.2.3")


def test_a_missing_library_says_what_to_install(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(installation, "version", missing)
    check = _check_library("PIL")
    assert (check.ok, check.detail) == (False, "not installed")
    assert hint_for(check.failure, check.facts) == "pip install pillow"


def test_torch_and_torchvision_of_different_builds_are_recognised():
    explained = _explain_torchvision(Check("torchvision", False, NMS, "library-damaged"))
    assert (explained.name, explained.ok, explained.detail) == ("torchvision", False, NMS)
    assert "different builds" in hint_for(explained.failure, explained.facts)
    assert "pip install torch torchvision" in hint_for(explained.failure, explained.facts)


def test_other_failures_keep_their_advice():
    check = Check("torch", False, "not installed", "library-missing")
    assert _explain_torchvision(check) is check


def test_a_sound_library_is_not_explained():
    check = Check("torchvision", True, "0.29.2")
    assert _explain_torchvision(check) is check


def test_broken_weights_of_mini_are_reported_with_their_hint(monkeypatch):
    class Broken:
        def locate(self):
            raise BaseModelError("the file is another", reason="weights-damaged", package="some")

    monkeypatch.setattr("condu_cli.backbone.models.embedded_weights.MINI_FILES", (Broken(),))
    check = _check_mini()
    assert (check.ok, check.detail) == (False, "the file is another")
    assert (check.failure, check.facts) == ("weights-damaged", {"package": "some"})


def test_a_disk_that_is_nearly_full_is_reported(tmp_path, monkeypatch):
    where = tmp_path / "not" / "there" / "yet"
    monkeypatch.setattr(installation, "FREE_BYTES_WANTED", 0)
    assert _check_space(where).ok
    monkeypatch.setattr(installation, "FREE_BYTES_WANTED", 1 << 80)
    check = _check_space(where)
    assert not check.ok
    assert str(tmp_path) in hint_for(check.failure, check.facts)


def test_no_registry_yet_is_fine(tmp_path):
    check = _check_registry(tmp_path / "nowhere")
    assert check.ok
    assert "none yet" in check.detail


def test_a_registry_is_described(registry_path):
    check = _check_registry(registry_path)
    assert check.ok
    assert "2 tasks, base tiny" in check.detail


def test_an_invalid_registry_fails_with_its_hint(tmp_path):
    (tmp_path / "notes.txt").touch()
    check = _check_registry(tmp_path)
    assert not check.ok
    assert "condu init" in hint_for(check.failure, check.facts)


def test_an_examination_names_every_library_and_explains_the_broken_one(imports, registry_path):
    imports(1, "RuntimeError: operator torchvision::nms does not exist")
    checks = {check.name: check for check in examine(registry_path)}
    assert set(installation.LIBRARIES) < set(checks)
    assert "different builds" in hint_for(
        checks["torchvision"].failure, checks["torchvision"].facts
    )
    assert checks["condu"].ok
    assert checks["registry"].ok
