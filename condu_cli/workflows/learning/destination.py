"""The registry that a task is learned into, perhaps not created yet, and what is kept there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from condu_cli.errors import BaseModelError, UsageError
from condu_cli.registry.repository import Registry
from condu_cli.workflows.learning.unfinished import save_unfinished
from condu_cli.workflows.opening.registry_only import (
    join_or_create,
    open_if_there,
    require_same_kind,
)
from condu_cli.workflows.sessions.current import refuse_known_task
from condu_cli.workflows.sessions.trained_experts import new_run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from condu_cli.registry.manifest import RegistryConfig, Session
    from condu_cli.workflows.learning.unfinished import Unfinished


class Site:
    """The registry's folder before anything large is loaded.

    `own_file`: the file of a training to resume. `retrain`: files kept of the task may be replaced.
    `found`: the registry, None if it does not exist.

    Raises:
        ConduError: a folder could not be made at the path.
        NoRegistryError: something else is at the path.
        UsageError: the task is already known, or something is kept of it and it is neither resumed
            nor retrained.

    """

    def __init__(
        self, path: Path, task: str, own_file: Path | None = None, *, retrain: bool = False
    ) -> None:
        self._path, self._task = path, task
        self._file = own_file
        self.found: Registry | None = open_if_there(path)
        refuse_known_task(None if self.found is None else self.found.head(), task)
        self._replaced = self._left_over(retrain=retrain)

    def _left_over(self, *, retrain: bool) -> list[Path]:
        """Return the files of earlier trainings of the task, which this one's commit removes."""
        if self.found is None:
            return []
        task = self._task
        waiting, runs = self.found.waiting.paths(task), self.found.runs.paths(task)
        if self._file is not None or retrain:
            return [path for path in (*waiting, *runs) if path != self._file]
        if waiting:
            raise UsageError(
                f"a trained expert of '{task}' is waiting to be committed",
                reason="expert-waits",
                task=task,
            )
        if runs:
            raise UsageError(
                f"a training of '{task}' was interrupted and can be resumed",
                reason="run-waits",
                task=task,
            )
        return []

    def settled(self, config: RegistryConfig) -> Destination:
        """Build on the current HEAD: an earlier task of the same command may have moved it.

        `config`: the registry's, in case it has to be created.

        Raises:
            BaseModelError: another process has created a registry of another kind.
            UsageError: another process has learned the task.

        """
        registry = self.found
        if registry is None:
            registry = open_if_there(self._path)
            if registry is not None:
                require_same_kind(registry, config)
        parent = None if registry is None else registry.head()
        refuse_known_task(parent, self._task)
        return Destination(self._path, config, registry, parent, self._file, self._replaced)


class Destination:
    """The registry that one task is committed to, and what its training saves there.

    `config`: the registry's, even before it exists. `parent`: the HEAD to build on. `moved_to`: the
    registry's path, if it is not the requested one. Created by `Site.settled`.
    """

    def __init__(
        self,
        path: Path,
        config: RegistryConfig,
        registry: Registry | None,
        parent: Session | None,
        own_file: Path | None,
        replaced: Sequence[Path],
    ) -> None:
        self.path, self.config, self.parent = path, config, parent
        self.moved_to: Path | None = None
        self._registry = registry
        self._file = own_file
        self._replaced = replaced

    def registry(self) -> Registry:
        """Return the registry, created if necessary.

        If another process has created one of another kind there, this one is created beside it:
        a trained expert must not be lost.
        """
        if self._registry is None:
            try:
                self._registry = join_or_create(self.path, self.config, "learn")
            except BaseModelError:
                self.moved_to = self.path.with_name(f"{self.path.name}-{new_run()[:8]}")
                self._registry = Registry.create(self.moved_to, self.config, command="learn")
        return self._registry

    @property
    def has_kept(self) -> bool:
        """Whether the training has been saved."""
        return self._file is not None

    def keep(self, unfinished: Unfinished) -> None:
        """Save the training, replacing what it saved before.

        Raises:
            ConduError: the disk is full.

        """
        self._file = save_unfinished(self.registry(), unfinished, self._file)

    def drop(self) -> None:
        """Remove what the training saved."""
        if self._registry is not None and self._file is not None:
            self._registry.runs.remove(self._file)
            self._file = None

    def drop_all(self) -> None:
        """Remove the training and those that it replaces, once the task is committed."""
        for path in self._replaced:
            path.unlink(missing_ok=True)
        self.drop()
