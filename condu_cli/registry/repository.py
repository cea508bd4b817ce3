"""The registry: open it, read its history, commit a session, move HEAD and back.

Every method is one transaction, so what it returns belongs together. Reading needs no lock and
never waits for a writer. A `Registry` belongs to one thread.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session as Transaction

from condu_cli.errors import (
    ConduError,
    IntegrityError,
    NoRegistryError,
    NotFoundError,
    UsageError,
)
from condu_cli.registry import rows
from condu_cli.registry.blobs import BlobRef, BlobStore
from condu_cli.registry.clock import utc_now
from condu_cli.registry.creation import create_registry
from condu_cli.registry.engine import described_errors, make_engine, read, write
from condu_cli.registry.lock import DEFAULT_TIMEOUT, RegistryLock
from condu_cli.registry.manifest import (
    Operation,
    RegistryConfig,
    Session,
    SessionDraft,
    short_id,
)
from condu_cli.registry.migrate import Notify, ensure_current
from condu_cli.registry.models import SessionRow
from condu_cli.registry.paths import RegistryPaths
from condu_cli.registry.revisions import match_prefix, steps_before_head
from condu_cli.registry.undo import rollback_to_undo


class Registry:
    """An open registry; get one from `Registry.create` or `Registry.open`."""

    def __init__(self, paths: RegistryPaths) -> None:
        self.paths = paths
        self.blobs = BlobStore(paths)
        self._lock = RegistryLock(paths.lock)
        self._engine = make_engine(paths.database)
        with self._read() as transaction:
            self.config, self.created_at = rows.read_config(transaction)

    @classmethod
    def create(cls, path: Path, config: RegistryConfig, *, command: str = "init") -> "Registry":
        """Create an empty registry at `path`; a failure leaves nothing behind."""
        root = path.absolute()
        create_registry(root, config, command)
        return cls(RegistryPaths(root))

    @classmethod
    def open(cls, path: Path, *, notify: Notify | None = None) -> "Registry":
        """Open the registry at `path`, migrating an older one; `notify` hears of that."""
        paths = RegistryPaths(path.absolute())
        _require_registry(paths)
        ensure_current(paths, notify)
        return cls(paths)

    @property
    def path(self) -> Path:
        """The registry's folder."""
        return self.paths.root

    @contextmanager
    def lock(self, command: str, timeout: float = DEFAULT_TIMEOUT) -> Iterator[None]:
        """Hold the write lock; others that want it read that `command` has it."""
        with self._lock.acquire(command, timeout):
            yield

    def head(self) -> Session | None:
        """Return the current session, None before the first."""
        with self._read() as transaction:
            return _head(transaction)

    def session(self, session_id: str) -> Session:
        """Return the session with this full id."""
        with self._read() as transaction:
            return _get(transaction, session_id)

    def sessions(self) -> list[Session]:
        """Return every stored session, newest first, whether HEAD descends from it or not."""
        with self._read() as transaction:
            newest_first = select(SessionRow).order_by(SessionRow.ordinal.desc())
            return [rows.read_session(row) for row in transaction.scalars(newest_first)]

    def ancestors(self, session: Session) -> list[Session]:
        """Return the parent of `session`, its parent, and so on to the first session."""
        with self._read() as transaction:
            return list(_ancestors(transaction, session))

    def operations(self) -> list[Operation]:
        """Return the journal, newest first."""
        with self._read() as transaction:
            return rows.read_operations(transaction)

    def resolve(self, text: str) -> Session | None:
        """Return the session that `text` means, None if that is the state before the first.

        A session is named by its id or at least four digits of it, `@` or `HEAD`, or `@~N`,
        the N-th before HEAD.
        """
        with self._read() as transaction:
            steps = steps_before_head(text)
            if steps is None:
                ids = transaction.scalars(select(SessionRow.id).order_by(SessionRow.ordinal)).all()
                return _get(transaction, match_prefix(text, ids))
            line = _line_from_head(transaction)
        if steps < len(line):
            return line[steps]
        raise NotFoundError(
            f"there is no session {text!r}: HEAD has {_count(len(line) - 1)} before it",
            "run `condu log` to see the sessions",
        )

    def commit(self, draft: SessionDraft, *, parent: str | None, command: str) -> Session:
        """Make `draft` the child of `parent` and HEAD; the blobs must be on disk already.

        The caller holds the lock, and has built the draft on `parent`; if HEAD is another by
        now, nothing is written.
        """
        if not self._lock.held:
            raise RuntimeError("commit needs the registry's lock: use `with registry.lock(...)`")
        session = _sealed(draft, parent, utc_now())
        blobs = [self._require_blob(sha256) for sha256 in sorted(session.blobs())]
        with self._write() as transaction:
            head = rows.head_id(transaction)
            if head != parent:
                raise ConduError(
                    f"HEAD moved from {_name(parent)} to {_name(head)} "
                    f"while {command!r} was working",
                    "nothing was committed; run the command again",
                )
            rows.insert_session(transaction, session, blobs)
            rows.move_head(
                transaction, session.id, kind=draft.kind, command=command, at=session.created_at
            )
        return session

    def rollback_target(self, steps: int) -> Session | None:
        """Return the session `steps` before HEAD, None for the state before the first."""
        if steps < 1:
            raise UsageError(
                f"cannot go back {steps} sessions", "a rollback goes back 1 session or more"
            )
        with self._read() as transaction:
            line = _line_from_head(transaction)
        if steps >= len(line):
            raise UsageError(
                f"cannot go back {_count(steps)}: HEAD has {_count(len(line) - 1)} to undo",
                "run `condu log` to see the sessions",
            )
        return line[steps]

    def rollback(self, to: Session | None, command: str) -> Operation:
        """Move HEAD to any stored session, None being the empty state before the first.

        Takes the lock unless it is held. Nothing is deleted; `undo_rollback` moves HEAD back.
        """
        target = None if to is None else to.id
        with self.lock(command), self._write() as transaction:
            if rows.head_id(transaction) == target:
                raise UsageError(
                    f"HEAD is at {_name(target)} already", "run `condu log` to see the sessions"
                )
            if target is not None:
                _get(transaction, target)
            return rows.move_head(
                transaction, target, kind="rollback", command=command, at=utc_now()
            )

    def undo_rollback(self, command: str) -> Operation:
        """Move HEAD to where it was before the latest rollback that was not undone yet.

        Takes the lock unless it is held. Raises UsageError if there is no such rollback, or
        if something was committed since.
        """
        with self.lock(command), self._write() as transaction:
            undone = rollback_to_undo(rows.read_operations(transaction))
            return rows.move_head(
                transaction,
                undone.from_session,
                kind="undo-rollback",
                command=command,
                at=utc_now(),
            )

    def _require_blob(self, sha256: str) -> BlobRef:
        if not self.blobs.exists(sha256):
            raise IntegrityError(
                f"blob {sha256} is missing, so the session cannot be committed",
                "nothing was committed; run the command again",
            )
        return BlobRef(sha256, self.blobs.size(sha256))

    @contextmanager
    def _read(self) -> Iterator[Transaction]:
        with described_errors(self.paths.database), read(self._engine) as transaction:
            yield transaction

    @contextmanager
    def _write(self) -> Iterator[Transaction]:
        with described_errors(self.paths.database), write(self._engine) as transaction:
            yield transaction


def _require_registry(paths: RegistryPaths) -> None:
    hint = "create one with `condu init`, let `condu learn` do it, or name another with --registry"
    if paths.root.is_dir():
        if not paths.database.is_file():
            raise NoRegistryError(f"{paths.root} is a folder, but not a registry", hint)
    elif paths.root.exists():
        raise NoRegistryError(f"{paths.root} is a file, not a registry", hint)
    else:
        raise NoRegistryError(f"there is no registry at {paths.root}", hint)


def _sealed(draft: SessionDraft, parent: str | None, created_at: str) -> Session:
    """Return the draft as a session: with its parent and time, and the id of all that."""
    unnamed = Session(
        id="",
        parent=parent,
        kind=draft.kind,
        task=draft.task,
        created_at=created_at,
        shared=draft.shared,
        entries=draft.entries,
        note=draft.note,
    )
    session_id = unnamed.computed_id()
    entries = tuple(
        entry if entry.learned_in else replace(entry, learned_in=session_id)
        for entry in draft.entries
    )
    return replace(unnamed, id=session_id, entries=entries)


def _get(transaction: Transaction, session_id: str) -> Session:
    row = transaction.get(SessionRow, session_id)
    if row is None:
        raise NotFoundError(
            f"there is no session {session_id!r}", "run `condu log` to see the sessions"
        )
    return rows.read_session(row)


def _head(transaction: Transaction) -> Session | None:
    session_id = rows.head_id(transaction)
    return None if session_id is None else _get(transaction, session_id)


def _ancestors(transaction: Transaction, session: Session) -> Iterator[Session]:
    while session.parent is not None:
        session = _get(transaction, session.parent)
        yield session


def _line_from_head(transaction: Transaction) -> list[Session | None]:
    """Return HEAD, everything before it, and None for the state before the first session."""
    head = _head(transaction)
    if head is None:
        return [None]
    return [head, *_ancestors(transaction, head), None]


def _name(session_id: str | None) -> str:
    return "the empty state" if session_id is None else short_id(session_id)


def _count(sessions: int) -> str:
    return "1 session" if sessions == 1 else f"{sessions} sessions"
