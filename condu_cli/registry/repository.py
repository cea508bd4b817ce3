"""The registry: open it, read its history, commit a session, move HEAD and back.

Every method is one transaction, so what it returns belongs together. Reading needs no lock and
never waits for a writer. A `Registry` belongs to one thread.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.orm import Session as Transaction

from condu_cli.errors import (
    HeadMovedError,
    IntegrityError,
    NoRegistryError,
    NotFoundError,
    UsageError,
)
from condu_cli.registry.blobs.kept_files import TaskFiles
from condu_cli.registry.blobs.store import BlobRef, BlobStore
from condu_cli.registry.clock import utc_now
from condu_cli.registry.creation import create_registry
from condu_cli.registry.database import marks, rows
from condu_cli.registry.database.engine import described_errors, make_engine, read, write
from condu_cli.registry.database.migration import Notify, ensure_current
from condu_cli.registry.database.needs import needed_among
from condu_cli.registry.database.session_reader import SessionReader
from condu_cli.registry.files.lock import DEFAULT_TIMEOUT, RegistryLock
from condu_cli.registry.files.paths import RegistryPaths
from condu_cli.registry.manifest import (
    Operation,
    Pack,
    RegistryConfig,
    Session,
    TaskEntry,
    short_id,
)
from condu_cli.registry.reachability import History
from condu_cli.registry.revisions import Revision, match_start, parse_revision, validate_new_tag
from condu_cli.registry.rollbacks import (
    ROLLBACK,
    Aim,
    count_of,
    rollback_to_undo,
    steps_back,
    undoable_sessions,
)


class Registry:
    """An open registry; get one from `Registry.create` or `Registry.open`."""

    def __init__(self, paths: RegistryPaths) -> None:
        self.paths = paths
        self.blobs = BlobStore(paths)
        self.waiting = TaskFiles(paths, paths.trained, "trained expert")
        self.runs = TaskFiles(paths, paths.runs, "unfinished training", in_backups=False)
        self.on_wait: Callable[[str], None] | None = None
        self._lock = RegistryLock(paths.lock)
        self._engine = make_engine(paths.database)
        self._sessions = SessionReader()
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
        """Open the registry at `path`, migrating an older one; `notify` is told about it."""
        paths = RegistryPaths(path.absolute())
        _require_registry(paths)
        ensure_current(paths, notify)
        return cls(paths)

    @property
    def path(self) -> Path:
        """The registry's folder."""
        return self.paths.root

    @contextmanager
    def lock(
        self,
        command: str,
        timeout: float = DEFAULT_TIMEOUT,
        on_wait: Callable[[str], None] | None = None,
    ) -> Iterator[None]:
        """Hold the write lock; waiting processes see that `command` holds it."""
        with self._lock.acquire(command, timeout, on_wait or self.on_wait):
            yield

    def head(self) -> Session | None:
        """Return the current session, None before the first."""
        with self._read() as transaction:
            return self._head(transaction)

    def session(self, session_id: str) -> Session:
        """Return the session with this full id."""
        with self._read() as transaction:
            return self._sessions.get(transaction, session_id)

    def sessions(self) -> list[Session]:
        """Return every stored session, newest first, whether HEAD descends from it or not."""
        with self._read() as transaction:
            return self._sessions.all(transaction)

    def session_ids(self) -> list[str]:
        """Return the ids of all stored sessions, newest first; no manifest is read."""
        with self._read() as transaction:
            return rows.session_ids(transaction)

    def ancestors(self, session: Session) -> list[Session]:
        """Return the parent of `session`, its parent, and so on to the first session."""
        with self._read() as transaction:
            return self._sessions.many(transaction, rows.line(transaction, session.parent))

    def operations(self) -> list[Operation]:
        """Return the journal, newest first."""
        with self._read() as transaction:
            return rows.read_operations(transaction)

    def resolve(self, text: str) -> Session | None:
        """Return the session that `text` names, None for the state before the first.

        A session is named by its id or at least four digits of it, a tag, `@` or `HEAD`; `~N`
        after the name means its N-th ancestor.
        """
        revision = parse_revision(text)
        with self._read() as transaction:
            start = self._start(transaction, revision)
            line = rows.line(transaction, start, revision.steps + 1)
            if revision.steps < len(line):
                return self._sessions.get(transaction, line[revision.steps])
        if revision.steps == len(line):
            return None
        name = "HEAD" if revision.from_head else revision.start
        raise NotFoundError(
            f"there is no session {text!r}: {name} and its ancestors are {count_of(len(line))}",
            reason="too-far-back",
            session=text,
            sessions=len(line),
        )

    def _start(self, transaction: Transaction, revision: Revision) -> str | None:
        if revision.from_head:
            return rows.head_id(transaction)
        ids = rows.ids_starting(transaction, revision.start.lower())
        return match_start(revision.start, ids, marks.tags(transaction))

    def history(self, *, fresh: bool = False) -> History:
        """Return every session and how it is stored, read in one transaction.

        Manifests read before come from a cache. `fresh` reads everything again, to detect changes
        by other programs.
        """
        if fresh:
            self._sessions.forget()
        with self._read() as transaction:
            return History(
                sessions=self._sessions.all(transaction),
                head=rows.head_id(transaction),
                packs=marks.packs(transaction),
                collected=marks.collected(transaction),
                tags=marks.tags(transaction),
                undoable=frozenset(undoable_sessions(rows.newest_operations(transaction))),
            )

    def require_live(self, session: Session) -> None:
        """Raise NotFoundError for a collected session, of which only the record is left."""
        with self._read() as transaction:
            _require_live(transaction, session)

    def tags(self) -> dict[str, str]:
        """Map every tag to the id of its session."""
        with self._read() as transaction:
            return marks.tags(transaction)

    def tag(self, name: str, session: Session, command: str) -> None:
        """Name a session; a tagged session is never collected. Takes the lock unless held."""
        validate_new_tag(name)
        with self.lock(command), self._write() as transaction:
            _require_live(transaction, session)
            marks.add_tag(transaction, name, session.id, command, utc_now())

    def remove_tag(self, name: str, command: str) -> str:
        """Remove a tag and return the id of its session. Takes the lock unless it is held."""
        with self.lock(command), self._write() as transaction:
            return marks.remove_tag(transaction, name, command, utc_now())

    def blob_sizes(self) -> dict[str, int]:
        """Map the sha256 of every blob that was ever committed to its size in bytes."""
        with self._read() as transaction:
            return rows.blob_sizes(transaction)

    def packs(self) -> dict[str, Pack]:
        """Map the id of every packed session to how it is stored."""
        with self._read() as transaction:
            return marks.packs(transaction)

    def pack(self, session: Session) -> Pack | None:
        """Return how a session is stored as a patch, None if it has files."""
        with self._read() as transaction:
            return marks.pack(transaction, session.id)

    def needed_among(self, blobs: Iterable[str]) -> set[str]:
        """Return which of these blobs must exist as files; `History.needed_blobs` for a few."""
        with self._read() as transaction:
            return needed_among(transaction, blobs)

    def record_pack(self, session: Session, reference: Session, patch: BlobRef | None) -> None:
        """Record that `patch` on `reference` restores `session`; the caller has tested it."""
        self._require_lock()
        with self._write() as transaction:
            marks.set_pack(transaction, session.id, reference.id, patch)

    def record_files(self, session: Session) -> None:
        """Record that a packed session has all its files again."""
        self._require_lock()
        for sha256 in session.state_blobs():
            self._require_blob(sha256)
        with self._write() as transaction:
            marks.remove_pack(transaction, session.id)

    def record_collected(self, sessions: Iterable[str], command: str) -> None:
        """Record that these sessions are collected, before any of their blobs is removed."""
        self._require_lock()
        with self._write() as transaction:
            marks.collect(transaction, sessions, command, utc_now())

    def folder_of(self, entry: TaskEntry) -> str | None:
        """Return the folder that an expert was learned from on this machine, if it is known."""
        with self._read() as transaction:
            return marks.source(transaction, entry)

    def session_of_run(self, run: str) -> Session | None:
        """Return HEAD if it holds this training's expert, else the newest session that does.

        None if no session does, or only collected ones.
        """
        with self._read() as transaction:
            gone = marks.collected(transaction)
            live = [i for i in rows.sessions_with_run(transaction, run) if i not in gone]
            head = rows.head_id(transaction)
            found = head if head in live else next(iter(live), None)
            return None if found is None else self._sessions.get(transaction, found)

    def commit(self, session: Session, *, command: str, folder: str | None = None) -> Session:
        """Make a new session HEAD and return it; its blobs must already be on disk.

        The caller holds the lock, and created the session with `Session.on` from its parent; if
        HEAD has moved since, nothing is written and HeadMovedError is raised. `folder`: where the
        new expert's pictures are on this machine.
        """
        self._require_lock()
        blobs = [self._require_blob(sha256) for sha256 in sorted(session.blobs())]
        with self._write() as transaction:
            require_head(rows.head_id(transaction), session.parent, command)
            rows.insert_session(transaction, session, blobs)
            if folder is not None:
                new = next(e for e in session.entries if e.learned_in == session.id)
                marks.set_source(transaction, new, folder)
            rows.move_head(
                transaction, session.id, kind=session.kind, command=command, at=session.created_at
            )
        return session

    def target(self, aim: Aim) -> Session | None:
        """Return the session that a rollback moves HEAD to, None for the empty state.

        Raises NotFoundError or UsageError if there is no such session.
        """
        if aim.session is not None and not aim.undo:
            return self.resolve(aim.session)
        with self._read() as transaction:
            if aim.undo:
                found = rollback_to_undo(rows.newest_operations(transaction)).from_session
            else:
                head = rows.head_id(transaction)
                found = steps_back(aim.steps, rows.line(transaction, head, aim.steps + 1))
            return None if found is None else self._sessions.get(transaction, found)

    def rollback(self, to: Session | None, command: str, kind: str = ROLLBACK) -> Operation:
        """Move HEAD to any stored session; None means the empty state before the first.

        Takes the lock unless it is held. Nothing is deleted: an undo, of kind UNDO, moves HEAD
        back. The files of a packed session must have been restored before.
        """
        target = None if to is None else to.id
        with self.lock(command), self._write() as transaction:
            if rows.head_id(transaction) == target:
                raise UsageError(
                    f"HEAD is already at {_name(target)}",
                    reason="head-there-already",
                    session=target,
                )
            self._require_usable(transaction, target)
            return rows.move_head(transaction, target, kind=kind, command=command, at=utc_now())

    def _head(self, transaction: Transaction) -> Session | None:
        session_id = rows.head_id(transaction)
        return None if session_id is None else self._sessions.get(transaction, session_id)

    def _require_lock(self) -> None:
        if not self._lock.held:
            raise RuntimeError("this needs the registry's lock: use `with registry.lock(...)`")

    def _require_usable(self, transaction: Transaction, session_id: str | None) -> None:
        """Raise unless HEAD may point at the session: it and all its files exist."""
        if session_id is not None:
            session = self._sessions.get(transaction, session_id)
            _require_live(transaction, session)
            for sha256 in sorted(session.blobs()):
                self._require_blob(sha256)

    def _require_blob(self, sha256: str) -> BlobRef:
        if not self.blobs.exists(sha256):
            raise IntegrityError(
                f"blob {sha256} is missing, so HEAD cannot move to a session that needs it",
                reason="blob-missing-for-head",
                blob=sha256,
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


def require_head(head: str | None, parent: str | None, command: str) -> None:
    """Raise HeadMovedError unless HEAD is still the session that a command started from."""
    if head != parent:
        raise HeadMovedError(
            f"HEAD moved from {_name(parent)} to {_name(head)} while {command!r} was working",
            reason="head-moved",
            parent=parent,
            head=head,
        )


def _require_registry(paths: RegistryPaths) -> None:
    if paths.root.is_dir():
        if not paths.database.is_file():
            if paths.readme.is_file() and any(paths.blobs.glob("??/*")):
                raise IntegrityError(
                    f"{paths.root} has the blobs of a registry, but its {paths.database.name} is "
                    "missing",
                    reason="database-missing",
                    path=paths.database,
                    copies=sorted(path.name for path in paths.backups.glob("*.sqlite")),
                )
            raise NoRegistryError(
                f"{paths.root} is a folder, but not a registry",
                reason="no-registry",
                path=paths.root,
            )
        _refuse_links(paths)
    elif paths.root.exists():
        raise NoRegistryError(
            f"{paths.root} is a file, not a registry",
            reason="registry-path-is-file",
            path=paths.root,
        )
    else:
        raise NoRegistryError(
            f"there is no registry at {paths.root}", reason="no-registry", path=paths.root
        )


def _refuse_links(paths: RegistryPaths) -> None:
    """Refuse links: in a registry from elsewhere they could redirect writes."""
    for path in paths.own:
        if path.is_symlink():
            raise IntegrityError(
                f"{path} is a symbolic link, which a registry never contains",
                reason="symbolic-link",
                path=path,
            )


def _require_live(transaction: Transaction, session: Session) -> None:
    at = marks.collected_at(transaction, session.id)
    if at is not None:
        raise NotFoundError(
            f"session {short_id(session.id)} was removed by garbage collection on {at[:10]}; only "
            "its record is left",
            reason="session-collected",
            session=session.id,
            at=at,
        )


def _name(session_id: str | None) -> str:
    return "the empty state" if session_id is None else short_id(session_id)
