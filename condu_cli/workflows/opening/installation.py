"""`doctor`: check the installation and the registry."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from condu_cli._version import __version__
from condu_cli.disk import nearest_existing
from condu_cli.errors import ConduError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LIBRARIES = (
    "torch",
    "torchvision",
    "open_clip",
    "timm",
    "transformers",
    "tokenizers",
    "peft",
    "safetensors",
    "sqlalchemy",
    "alembic",
    "PIL",
    "ml_dtypes",
    "array_api_compat",
)
DISTRIBUTIONS = {
    "open_clip": "open_clip_torch",
    "PIL": "pillow",
    "array_api_compat": "array-api-compat",
}
IMPORT_SECONDS = 120
FREE_BYTES_WANTED = 2 << 30


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report.

    If it failed, `failure` and `facts` describe the failure, like an error's reason and facts.
    """

    name: str
    ok: bool
    detail: str
    failure: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)


def examine(registry_path: Path) -> list[Check]:
    """Run all checks; none of them changes anything."""
    checks = [
        Check("condu", True, f"{__version__}, Python {platform.python_version()}"),
        *(_check_library(name) for name in LIBRARIES),
        _check_compiler(),
        _check_mini(),
        _check_space(registry_path),
        _check_registry(registry_path),
    ]
    return [_explain_torchvision(check) for check in checks]


def _check_library(module: str) -> Check:
    """Import in a separate process: a broken native library can crash it."""
    distribution = DISTRIBUTIONS.get(module, module)
    package = {"package": distribution}
    try:
        installed = version(distribution)
    except PackageNotFoundError:
        return Check(module, False, "not installed", failure="library-missing", facts=package)
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter, a name from the table above
            [sys.executable, "-c", f"import {module}"],
            capture_output=True,
            text=True,
            timeout=IMPORT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        slow = f"{installed} takes more than {IMPORT_SECONDS} s to import"
        return Check(module, False, slow, failure="library-slow")
    if done.returncode == 0:
        return Check(module, True, installed)
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    broken = f"{installed} does not import: {last}"
    return Check(module, False, broken, failure="library-damaged", facts=package)


def _check_compiler() -> Check:
    """Check numba; without it condu works, only slower, so its absence is not a failure."""
    check = _check_library("numba")
    if check.ok:
        return check
    return Check("numba", True, f"{check.detail}; unify runs as array operations, slower")


def _explain_torchvision(check: Check) -> Check:
    """Recognise a torchvision for another build of torch, the most common broken installation."""
    if check.ok or "torchvision::nms" not in check.detail:
        return check
    return Check(check.name, False, check.detail, failure="torchvision-of-other-build")


def _check_mini() -> Check:
    from condu_cli.backbone.models.embedded_weights import MINI_FILES

    try:
        for file in MINI_FILES:
            file.locate()
    except ConduError as exc:
        return Check("base model mini", False, exc.message, failure=exc.reason, facts=exc.facts)
    return Check("base model mini", True, "weights present, sha256 as expected")


def _check_space(registry_path: Path) -> Check:
    folder = nearest_existing(registry_path)
    free = shutil.disk_usage(folder).free
    ok = free >= FREE_BYTES_WANTED
    found = f"{free / 1e9:.1f} GB free at {folder}"
    if ok:
        return Check("disk space", True, found)
    return Check("disk space", False, found, failure="disk-full", facts={"path": str(folder)})


def _check_registry(registry_path: Path) -> Check:
    from condu_cli.workflows.opening.registry_only import open_if_there

    try:
        registry = open_if_there(registry_path)
        if registry is None:
            return Check("registry", True, f"none yet at {registry_path}; learn will create it")
        head = registry.head()
    except ConduError as exc:
        return Check("registry", False, exc.message, failure=exc.reason, facts=exc.facts)
    tasks = 0 if head is None else len(head.entries)
    return Check(
        "registry", True, f"{registry.path}: {tasks} tasks, base {registry.config.base.id}"
    )
