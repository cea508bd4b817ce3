"""Resume what was interrupted: commit trained experts, finish trainings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from condu_cli.errors import ConduError, InterruptedByUserError, NotFoundError, PartialError
from condu_cli.workflows.learning.learner import Learner
from condu_cli.workflows.learning.summaries import LearnSummary, summarise
from condu_cli.workflows.learning.training import Machine
from condu_cli.workflows.learning.unfinished import load_unfinished
from condu_cli.workflows.progress import ProgressCallback, silent
from condu_cli.workflows.sessions.committing import ExpertCommit, resume_expert
from condu_cli.workflows.sessions.current import is_learned
from condu_cli.workflows.sessions.trained_experts import load_expert

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from condu_cli.registry.blobs.kept_files import TaskFiles
    from condu_cli.registry.manifest import Session
    from condu_cli.registry.repository import Registry


@dataclass(frozen=True)
class Resumed:
    """A committed expert: its summary, or None if `session` already had it."""

    task: str
    summary: LearnSummary | None
    session: Session


class Kept(NamedTuple):
    """Files of experts to commit and of trainings to finish."""

    experts: tuple[Path, ...]
    runs: tuple[Path, ...]


def resume(
    registry: Registry,
    task: str | None,
    on_progress: ProgressCallback = silent,
    on_done: Callable[[Resumed], None] = lambda _: None,
    machine: Machine | None = None,
) -> list[Resumed]:
    """Commit the trained experts that are kept, then finish the interrupted trainings.

    All of them, or those of one task. Experts are committed on top of the current HEAD. `on_done`
    is called after each. A failure does not stop the others.

    Raises:
        NotFoundError: there is nothing to resume.
        PartialError: some could not be committed or finished, and are still kept.
        ConduError: the first failure, if none could be committed.
        InterruptedByUserError: the user pressed Ctrl-C again.

    """
    found: list[Resumed] = []
    errors: list[ConduError] = []
    count = 0
    machine = machine or Machine()
    for done in _all(registry, task, on_progress, machine):
        count += 1
        if isinstance(done, ConduError):
            errors.append(done)
        elif done is not None:
            found.append(done)
            on_done(done)
    if not count and machine.team.rank == 0:
        raise _nothing(registry, task)
    if errors and not found:
        raise errors[0]
    if errors:
        raise PartialError(
            f"{len(errors)} of {count} kept experts could not be committed: {errors[0].message}",
            reason=errors[0].reason,
            **errors[0].facts,
        )
    return found


def _all(
    registry: Registry, task: str | None, on_progress: ProgressCallback, machine: Machine
) -> Iterator[Resumed | ConduError | None]:
    team = machine.team
    found = team.share(latest_kept(registry, task))
    for path in found.experts if team.rank == 0 else ():
        name = registry.waiting.task_of(path)
        replaced = [*registry.waiting.paths(name), *registry.runs.paths(name)]
        done = _commit_waiting(registry, path, on_progress)
        if isinstance(done, Resumed):
            for file in replaced:  # all are older: `latest_kept` takes the latest
                file.unlink(missing_ok=True)
        # If the file is gone, another process has committed it.
        yield None if isinstance(done, ConduError) and not path.exists() else done
    for path in found.runs:
        yield _finish(registry, path, on_progress, machine)


def latest_kept(registry: Registry, task: str | None = None) -> Kept:
    """Return what `resume` would take: the latest file kept of each task.

    A retraining replaces earlier files, finished or not.
    """
    experts, runs = _latest(registry.waiting, task), _latest(registry.runs, task)
    for name in experts.keys() & runs.keys():
        later = _written_at(experts[name]) > _written_at(runs[name])
        del (runs if later else experts)[name]
    return Kept(tuple(experts.values()), tuple(runs[name] for name in sorted(runs)))


def _latest(files: TaskFiles, task: str | None) -> dict[str, Path]:
    """Map each task to its latest file."""
    return {files.task_of(path): path for path in files.paths(task)}


def _written_at(path: Path) -> int:
    """Return a file's modification time in ns; 0 if another process committed and removed it."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _commit_waiting(
    registry: Registry, path: Path, on_progress: ProgressCallback
) -> Resumed | ConduError:
    try:
        expert = registry.waiting.open(path)
        trained = load_expert(registry, expert)
        done = resume_expert(
            registry,
            expert,
            trained=trained,
            command=f"learn {expert.task} again",
            on_progress=on_progress,
        )
    except ConduError as exc:
        return exc
    if isinstance(done, ExpertCommit):
        return Resumed(expert.task, summarise(trained, done), done.session)
    return Resumed(expert.task, None, done)


def _finish(
    registry: Registry, path: Path, on_progress: ProgressCallback, machine: Machine
) -> Resumed | ConduError | None:
    task = registry.runs.task_of(path)
    older = registry.waiting.paths(task)
    try:
        unfinished = load_unfinished(registry, registry.runs.open(path))
        known = machine.team.share(registry.session_of_run(unfinished.run))
        if known is not None:  # committed, but killed before this file was removed
            registry.runs.remove(path)
            return Resumed(unfinished.task, None, known)
        learner = Learner(
            registry.path,
            unfinished.request_now,
            machine=machine,
            resumed=unfinished,
            resumed_from=path,
        )
        summary = learner.plan().run(on_progress)
    except InterruptedByUserError:
        raise
    except ConduError as exc:
        _point_to_older(registry, task, older, exc)
        if machine.team.size > 1:  # the other processes do not know, and would wait forever
            raise
        return exc
    if summary is None:  # another process of the team has committed it
        return None
    return Resumed(unfinished.task, summary, registry.session(summary.session))


def _point_to_older(registry: Registry, task: str, older: Sequence[Path], exc: ConduError) -> None:
    """If a retraining cannot continue, add that the expert it was to replace is kept.

    `older`: the experts kept before. Does nothing if the retraining is finished and only its commit
    failed, or if the task has been learned.
    """
    if (
        not older
        or is_learned(registry.head(), task)
        or registry.waiting.paths(task) != list(older)
    ):
        return
    runs = registry.runs.paths(task)
    later = [run for run in runs if _written_at(run) >= _written_at(older[-1])]
    exc.add(older_expert=task, in_its_way=later)


def _nothing(registry: Registry, task: str | None) -> NotFoundError:
    of_task = "" if task is None else f" of task '{task}'"
    return NotFoundError(
        f"no trained expert{of_task} is waiting to be committed in {registry.path}, and no "
        "training was interrupted",
        reason="nothing-to-resume",
        task=task,
        registry=registry.path,
    )
