"""Go on with what was interrupted: commit trained experts, finish trainings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from condu_cli.errors import ConduError, InterruptedByUserError, NotFoundError, PartialError
from condu_cli.workflows.committing import Commit, load_expert, resume_expert
from condu_cli.workflows.learning import Learner
from condu_cli.workflows.progress import ProgressCallback, silent
from condu_cli.workflows.summaries import LearnSummary, summarise
from condu_cli.workflows.training import Machine
from condu_cli.workflows.unfinished import load_unfinished

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from condu_cli.registry.manifest import Session
    from condu_cli.registry.repository import Registry
    from condu_cli.registry.task_files import TaskFiles


@dataclass(frozen=True)
class Resumed:
    """A kept expert that is committed: its summary, or the session that had it before."""

    task: str
    summary: LearnSummary | None
    session: Session


def resume(
    registry: Registry,
    task: str | None,
    on_progress: ProgressCallback = silent,
    on_done: Callable[[Resumed], None] = lambda _: None,
    machine: Machine | None = None,
) -> list[Resumed]:
    """Commit the trained experts that wait, then finish the trainings that were interrupted.

    All of them, or those of one task. Experts are committed on whatever HEAD is. `on_done` hears
    of each at once. One that fails does not keep the others back.

    Raises:
        NotFoundError: there is nothing to go on with.
        PartialError: some could not be committed or finished; they are still kept.
        ConduError: what kept the only one, or the first of them all, from being committed.
        InterruptedByUserError: somebody pressed Ctrl-C again.

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
            f"{len(errors)} of {count} kept experts still wait: {errors[0].message}",
            errors[0].hint,
        )
    return found


def _all(
    registry: Registry, task: str | None, on_progress: ProgressCallback, machine: Machine
) -> Iterator[Resumed | ConduError | None]:
    team = machine.team
    runs = team.share(_latest_runs(registry, task))
    begun = {name for name, _ in runs}
    for name, path in _latest(registry.waiting, task) if team.rank == 0 else ():
        if name in begun:
            continue  # a later training takes its place
        replaced = [*registry.waiting.paths(name), *registry.runs.paths(name)]
        done = _commit_waiting(registry, path, on_progress)
        if isinstance(done, Resumed):
            for file in replaced:  # none of them was later, or it would have been taken instead
                file.unlink(missing_ok=True)
        # Where the file is gone, somebody else has committed it meanwhile.
        yield None if isinstance(done, ConduError) and not path.exists() else done
    for _, path in runs:
        yield _finish(registry, path, on_progress, machine)


def _latest_runs(registry: Registry, task: str | None) -> list[tuple[str, Path]]:
    """Tasks with the latest of their unfinished trainings, where no expert is later still."""
    latest = dict(_latest(registry.runs, task))
    for name, path in _latest(registry.waiting, task):
        run = latest.get(name)
        if run is not None and run.stat().st_mtime_ns < path.stat().st_mtime_ns:
            del latest[name]
    return sorted(latest.items())


def _latest(files: TaskFiles, task: str | None) -> list[tuple[str, Path]]:
    """Tasks with the latest of their files: a retraining takes the place of what was before."""
    return list({files.task_of(path): path for path in files.paths(task)}.items())


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
            command=f"learn --task {expert.task} --resume",
            on_progress=on_progress,
        )
    except ConduError as exc:
        return exc
    if isinstance(done, Commit):
        return Resumed(expert.task, summarise(trained, done), done.session)
    return Resumed(expert.task, None, done)


def _finish(
    registry: Registry, path: Path, on_progress: ProgressCallback, machine: Machine
) -> Resumed | ConduError | None:
    try:
        unfinished = load_unfinished(registry, registry.runs.open(path))
        known = machine.team.share(registry.session_of_run(unfinished.run))
        if known is not None:  # committed, and stopped before this file could go
            registry.runs.remove(path)
            return Resumed(unfinished.task, None, known)
        learner = Learner(
            registry.path,
            unfinished.request,
            None,
            machine,
            resumed=unfinished,
            resumed_from=path,
        )
        summary = learner.run(learner.plan(), on_progress)
    except InterruptedByUserError:
        raise
    except ConduError as exc:
        if machine.team.size > 1:  # the others do not know of it, and would wait for ever
            raise
        return exc
    if summary is None:  # another process of the team has committed it
        return None
    return Resumed(unfinished.task, summary, registry.session(summary.session))


def _nothing(registry: Registry, task: str | None) -> NotFoundError:
    of_task = "" if task is None else f" of task '{task}'"
    return NotFoundError(
        f"no trained expert{of_task} waits to be committed in {registry.path}, and no training "
        "was interrupted",
        "Train one: condu learn --task NAME --data DIR",
    )
