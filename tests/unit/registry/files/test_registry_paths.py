import subprocess
import sys
from pathlib import Path

import pytest

from condu_cli.registry.files.paths import RegistryPaths, resolve_registry_path


def test_the_option_takes_precedence_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDU_REGISTRY", "/from/environment")
    assert resolve_registry_path(Path("/from/option")) == Path("/from/option")


def test_the_environment_takes_precedence_over_the_data_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CONDU_REGISTRY", "/from/environment")
    assert resolve_registry_path(None) == Path("/from/environment")


@pytest.mark.parametrize("unset", [None, ""])
def test_without_either_it_is_the_platforms_data_folder(
    monkeypatch: pytest.MonkeyPatch, unset: str | None
) -> None:
    from platformdirs import user_data_dir

    monkeypatch.delenv("CONDU_REGISTRY", raising=False)
    if unset is not None:
        monkeypatch.setenv("CONDU_REGISTRY", unset)
    expected = Path(user_data_dir("condu", appauthor=False)) / "registry"
    assert resolve_registry_path(None) == expected


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert resolve_registry_path(Path("~/r")) == tmp_path / "r"
    monkeypatch.setenv("CONDU_REGISTRY", "~/e")
    assert resolve_registry_path(None) == tmp_path / "e"


def test_everything_is_under_the_root() -> None:
    paths = RegistryPaths(Path("root"))
    layout = {
        paths.database: "condu.sqlite",
        paths.blobs: "blobs",
        paths.backups: "backups",
        paths.tmp: "tmp",
        paths.lock: "lock",
        paths.readme: "README.txt",
    }
    assert {path.relative_to("root").as_posix() for path in layout} == set(layout.values())


def test_resolving_a_path_imports_nothing_heavy() -> None:
    code = (
        "import sys;"
        "from condu_cli.registry.files.paths import resolve_registry_path as r; r(None);"
        "from condu_cli.registry.names import validate_task_name as v; v('x');"
        "print(sorted({'numpy', 'sqlalchemy', 'alembic', 'safetensors'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
