"""Download public data sets with torchvision's own code."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from condu_cli.data.sources.known_tasks import State, known_tasks, where
from condu_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from condu_cli.data.sources.known_tasks import KnownSet

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz")


def download_set(task: str, root: Path) -> None:
    """Download a public data set into a data root, in torchvision's layout.

    It is unpacked beside its place and moved when complete, so that an interrupted download is
    never taken for a data set.

    Raises:
        DataError: torchvision cannot download it, something else is in its place, or the
            download failed.

    """
    public = known_tasks()[task].public
    if public is None:
        raise KeyError(task)
    target = root / public.folder
    _check(task, public, target)
    require_scipy(task)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as draft:
            _fetch(public, Path(draft))
            if where(task, Path(draft)).state is not State.THERE:
                raise RuntimeError("the archive does not hold the expected files")
            _remove_archives(Path(draft, public.folder))
            _move(Path(draft, public.folder), target, task, root)
    except Exception as exc:
        # Networks, archives and disks fail in many ways; the advice is always the same.
        raise DataError(
            f"the data set of task '{task}' could not be downloaded: {_reason(exc)}",
            reason="download-failed",
            task=task,
            url=public.url,
            needs=public.what_to_put(root),
        ) from exc


def require_scipy(task: str) -> None:
    """Check that the library for a data set's labels is installed.

    Raises:
        DataError: the labels are MATLAB files, and scipy is not installed.

    """
    if task not in ("flowers", "stanford_cars"):
        return
    try:
        importlib.import_module("scipy.io")
    except ImportError as exc:
        raise DataError(
            f"the labels of task '{task}' are MATLAB files, but scipy is not installed",
            reason="library-missing",
            package="scipy",
        ) from exc


def _check(task: str, public: KnownSet, target: Path) -> None:
    if not public.downloadable:
        raise DataError(
            f"the data set of task '{task}' cannot be downloaded by torchvision",
            reason="not-downloadable",
            task=task,
            url=public.url,
            needs=public.what_to_put(target.parent),
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(
            f"{target}: is in the way of the download, but is not a complete data set",
            reason="in-the-way",
            path=target,
            needs=public.what_to_put(target.parent),
        )


def _fetch(public: KnownSet, root: Path) -> None:
    from torchvision import datasets

    with _quiet():
        getattr(datasets, str(public.torchvision))(root, download=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torchvision's messages off stdout, and show its progress bar only on a terminal."""
    with contextlib.ExitStack() as stack:
        if not sys.stderr.isatty():
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def _remove_archives(folder: Path) -> None:
    """Remove archives that have been unpacked."""
    for path in folder.iterdir():
        if path.is_file() and path.name.endswith(ARCHIVES):
            path.unlink()


def _move(draft: Path, target: Path, task: str, root: Path) -> None:
    try:
        if target.is_dir():
            target.rmdir()  # empty, see `_check`
        draft.rename(target)
    except OSError:
        if where(task, root).state is not State.THERE:  # otherwise another process was first
            raise


def _reason(exc: Exception) -> str:
    text = " ".join(str(exc).split())
    return (text if len(text) <= 200 else f"{text[:200]}…") or type(exc).__name__
