"""Verify a registry: no byte has changed, and nothing that is needed is missing.

    quick   the database, the links between its rows, every session's id; of the blobs: that they
            exist, their sizes, headers, shapes and bit counts
    full    also the hash of every blob, that every patch restores its session bit for bit, and
            that the numbers in the manifests agree with the blobs

Nothing is repaired. A problem names its object, the affected sessions and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from condu_cli.core.arrays.layout import InvalidStateError
from condu_cli.core.routing.prototypes import Prototypes
from condu_cli.errors import IntegrityError
from condu_cli.registry.integrity import check_database
from condu_cli.registry.leftovers import Leftover, leftovers, unknown_files
from condu_cli.registry.manifest import plain_record, short_id
from condu_cli.workflows.progress import Progress, ProgressCallback, silent
from condu_cli.workflows.sessions.coding import codec_for
from condu_cli.workflows.sessions.corruption import consequences
from condu_cli.workflows.sessions.expert_blobs import head_in
from condu_cli.workflows.sessions.patch_walk import Restored, restored_states
from condu_cli.workflows.sessions.trained_experts import load_expert

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence, Set
    from pathlib import Path

    from condu_cli.registry.blobs.kept_files import KeptFile, TaskFiles
    from condu_cli.registry.manifest import TaskEntry
    from condu_cli.registry.reachability import History
    from condu_cli.registry.repository import Registry

ATTEMPTS = 3
TOLERANCE = 1e-6
"""Relative; norms are sums whose last bits may depend on the machine."""


@dataclass(frozen=True)
class Problem:
    """A fault: what is wrong, why, and which sessions need it.

    `failure` and `facts` describe it, like an error's reason and facts. `path`: the file that is
    corrupt or missing, if it is a single one.
    """

    object: str
    reason: str
    sessions: tuple[str, ...]
    failure: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None


@dataclass(frozen=True)
class Verification:
    """What was checked, and what is wrong.

    Leftovers are not a problem: `gc` removes them. Neither are `unknown` files, which condu did
    not write and never removes.
    """

    quick: bool
    sessions: int
    blobs: int
    bytes: int
    problems: tuple[Problem, ...]
    leftovers: tuple[Leftover, ...] = field(default=())
    unknown: tuple[Path, ...] = field(default=())


def verify(
    registry: Registry, *, quick: bool = False, on_progress: ProgressCallback = silent
) -> Verification:
    """Check a registry; concurrent writers cause no false alarms."""
    problems = [
        Problem("condu.sqlite", fault, (), failure="database-unsound", path=registry.paths.database)
        for fault in check_database(registry)
    ]
    if problems:  # what the database says about blobs cannot be trusted
        return Verification(quick, 0, 0, 0, tuple(problems))
    for _ in range(ATTEMPTS):
        history = registry.history()
        found = _check_blobs(registry, history, quick=quick, on_progress=on_progress)
        if not found or _unchanged(registry, history):
            break  # else a writer stored or removed something during the check
    needed = history.needed_blobs()
    sizes = registry.blob_sizes()
    return Verification(
        quick,
        len(history.live),
        len(needed),
        sum(sizes.get(sha256, 0) for sha256 in needed),
        tuple(found),
        tuple(leftovers(registry, set(needed))),
        tuple(unknown_files(registry)),
    )


def _unchanged(registry: Registry, before: History) -> bool:
    now = registry.history()
    return (now.head, now.packs, now.collected) == (before.head, before.packs, before.collected)


def _check_blobs(
    registry: Registry, history: History, *, quick: bool, on_progress: ProgressCallback
) -> list[Problem]:
    """Find the faults of files, then decode each session whose own files are intact."""
    checked = _check_files(registry, history, quick=quick, on_progress=on_progress)
    faults = {str(exc.facts["blob"]): exc for exc in checked}
    affected = history.affected_by(faults.keys())
    found = [
        Problem(
            f"blob {sha256}",
            exc.message.removeprefix(f"blob {sha256} "),
            _sessions_with(history, affected, sha256),
            failure="needed-file-damaged",
            facts={"blob": sha256, "unreadable": exc.reason == "blob-unreadable"},
            path=registry.blobs.path(sha256),
        )
        for sha256, exc in faults.items()
    ]
    intact = {
        session.id
        for session in history.live
        if not affected[session.id] and (history.has_files(session) or not quick)
    }
    found += _check_sessions(registry, history, intact, on_progress)
    return [*_with_consequences(history, found), *_check_kept(registry, quick=quick)]


def _with_consequences(history: History, problems: Sequence[Problem]) -> Iterator[Problem]:
    unsound = {session_id for problem in problems for session_id in problem.sessions}
    for problem in problems:
        bad = {str(problem.facts["blob"])} if "blob" in problem.facts else set()
        more = consequences(history, bad, set(problem.sessions), unsound)
        yield replace(problem, facts={**problem.facts, **more})


def _sessions_with(
    history: History, affected: Mapping[str, frozenset[str]], sha256: str
) -> tuple[str, ...]:
    return tuple(s.id for s in history.live if sha256 in affected[s.id])


def _check_sessions(
    registry: Registry, history: History, intact: Set[str], on_progress: ProgressCallback
) -> list[Problem]:
    """Restore each of these sessions once, and compare it with its manifest."""
    found: dict[str, Problem] = {}
    counted: dict[str, int] = {}  # the classes of each blob of prototypes or of a head
    for done, restored in enumerate(restored_states(registry, history, intact), 1):
        problem = _fault_of_session(registry, restored, counted)
        if problem is not None:
            found[restored.session.id] = problem
        on_progress(Progress("sessions", done, len(intact)))
    return [found[session.id] for session in history.live if session.id in found]


def _check_kept(registry: Registry, *, quick: bool) -> Iterator[Problem]:
    """Check the experts that are trained and not committed yet, and the unfinished trainings."""

    def read_run(file: KeptFile) -> None:
        if not quick:
            registry.runs.verified_record(file)

    kinds: list[tuple[TaskFiles, Callable[[KeptFile], object]]] = [
        (registry.waiting, lambda file: load_expert(registry, file)),
        (registry.runs, read_run),
    ]
    for files, read in kinds:
        for path in files.paths():
            yield from _fault_of_kept(files, path, read)


def _fault_of_kept(
    files: TaskFiles, path: Path, read: Callable[[KeptFile], object]
) -> Iterator[Problem]:
    try:
        read(files.open(path))
    except IntegrityError as exc:
        if path.exists():  # else it has been committed or saved again
            name = f"{path.parent.name}/{path.name}"
            why = exc.message.partition(f"{path} ")[2] or exc.message
            yield Problem(name, why, (), failure=exc.reason, facts=exc.facts, path=path)


def _check_files(
    registry: Registry, history: History, *, quick: bool, on_progress: ProgressCallback
) -> Iterator[IntegrityError]:
    """Yield an error for each blob whose file is not what it should be."""
    sizes = registry.blob_sizes()
    needed = sorted(history.needed_blobs())
    for done, sha256 in enumerate(needed, 1):
        try:
            if registry.blobs.size(sha256) != sizes.get(sha256):
                raise IntegrityError(
                    f"blob {sha256} has the wrong size",
                    reason="blob-size-differs",
                    blob=sha256,
                )
            registry.blobs.open(sha256)
            if not quick:
                registry.blobs.verify(sha256)
        except IntegrityError as exc:
            yield exc
        on_progress(Progress("blobs", done, len(needed)))


def _fault_of_session(
    registry: Registry, restored: Restored, counted: dict[str, int]
) -> Problem | None:
    """Compare a session, restored if it was packed, with its manifest."""
    session = restored.session
    name = f"session {short_id(session.id)}"
    try:
        for entry in session.entries:
            _check_prototypes(registry, entry, counted)
            _check_head(registry, entry, counted)
        if session.entries:
            state = restored.state().state
            codec = codec_for(registry.config, session)
            for entry, found in zip(session.entries, codec.describe(state), strict=True):
                _check_figures(entry, found)
    except InvalidStateError as exc:
        return Problem(name, str(exc), (session.id,), failure="session-differs")
    except IntegrityError as exc:
        return Problem(name, exc.message, (session.id,), failure="session-differs")
    return None


def _check_prototypes(registry: Registry, entry: TaskEntry, counted: dict[str, int]) -> None:
    """Compare prototypes with the classes; `counted` caches those already opened."""
    sha256 = entry.expert.prototypes
    if sha256 not in counted:
        counted[sha256] = len(Prototypes.from_arrays(registry.blobs.open(sha256)).counts)
    if counted[sha256] != len(entry.expert.classes):
        raise IntegrityError(
            f"the prototypes of task '{entry.name}' have {counted[sha256]} classes, "
            f"not {len(entry.expert.classes)}",
            reason="prototypes-differ",
            task=entry.name,
        )


def _check_head(registry: Registry, entry: TaskEntry, counted: dict[str, int]) -> None:
    sha256, classes = entry.expert.head, len(entry.expert.classes)
    if sha256 is None or counted.get(sha256) == classes:
        return
    head_in(entry, registry.blobs.open(sha256))
    counted[sha256] = classes


def _check_figures(entry: TaskEntry, record: Mapping[str, Any]) -> None:
    described = plain_record(record)
    for key in sorted({*entry.record, *described}):
        recorded, found = entry.record.get(key), described.get(key)
        if not _agree(recorded, found):
            raise IntegrityError(
                f"the {key.replace('_', ' ')} of task '{entry.name}' is {_shown(found)}, not "
                f"{_shown(recorded)} as recorded",
                reason="figures-differ",
                task=entry.name,
            )


def _agree(recorded: Any, found: Any) -> bool:
    if isinstance(recorded, float) and isinstance(found, float):
        return abs(recorded - found) <= TOLERANCE * max(1.0, abs(recorded))
    return bool(recorded == found)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)
