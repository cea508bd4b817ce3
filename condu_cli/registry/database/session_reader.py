"""Read sessions in few statements, and compare each with its id."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session as Transaction

from condu_cli.errors import IntegrityError, NotFoundError
from condu_cli.registry.database import rows
from condu_cli.registry.database.tables import ExpertRow, SessionRow, SessionTaskRow
from condu_cli.registry.manifest import CodecChoice, Expert, Session, TaskEntry
from condu_cli.registry.names import shown_id

_TASK_COLUMNS = list(SessionTaskRow.__table__.columns)
_SESSION_COLUMNS = list(SessionRow.__table__.columns)


class SessionReader:
    """Reads sessions of one registry.

    Rows of sessions and experts never change, so what `all` has read is neither read nor hashed a
    second time; `forget` makes the next call read everything again.
    """

    def __init__(self) -> None:
        self._known: dict[str, Session] = {}

    def forget(self) -> None:
        """Drop the cache, to see what the database holds now."""
        self._known = {}

    def get(self, transaction: Transaction, session_id: str) -> Session:
        """Return the session with this id; raise NotFoundError, or IntegrityError if altered."""
        return self.many(transaction, [session_id])[0]

    def many(self, transaction: Transaction, ids: Sequence[str]) -> list[Session]:
        """Return the sessions with these ids, in their order."""
        # Not a copy of `_known`: reading one session must not cost as much as reading all.
        found = {i: self._known[i] for i in ids if i in self._known}
        experts = _Experts(transaction)
        for chunk in rows.chunks(i for i in ids if i not in found):
            for session in _read(transaction, chunk, experts):
                found[session.id] = session
        for session_id in ids:
            if session_id not in found:
                raise NotFoundError(
                    f"there is no session {session_id!r}",
                    reason="no-such-session",
                    session=session_id,
                )
        return [found[session_id] for session_id in ids]

    def all(self, transaction: Transaction) -> list[Session]:
        """Return every stored session, newest first."""
        sessions = self.many(transaction, rows.session_ids(transaction))
        self._known = {session.id: session for session in sessions}
        return sessions


class _Experts:
    """The experts in a set of rows, each converted once and shared by all its sessions."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._rows: dict[int, Any] = {}
        self._values: dict[int, Expert] = {}

    def fetch(self, ids: Iterable[int]) -> None:
        """Read the rows with these ids, unless they were read before."""
        columns = ExpertRow.__table__.columns
        for chunk in rows.chunks(i for i in dict.fromkeys(ids) if i not in self._rows):
            found = self._transaction.execute(select(*columns).where(ExpertRow.id.in_(chunk)))
            self._rows |= {row.id: row for row in found}

    def __getitem__(self, row_id: int) -> tuple[Expert, str]:
        """Return an expert, and the session that learned it."""
        row = self._rows[row_id]
        if row_id not in self._values:
            self._values[row_id] = rows.read_expert(row)
        return self._values[row_id], row.learned_in


def _read(transaction: Transaction, ids: Sequence[str], experts: _Experts) -> list[Session]:
    tasks: dict[str, list[Any]] = defaultdict(list)
    in_order = (
        select(*_TASK_COLUMNS)
        .where(SessionTaskRow.session.in_(ids))
        .order_by(SessionTaskRow.session, SessionTaskRow.position)
    )
    for task in transaction.execute(in_order):
        tasks[task.session].append(task)
    experts.fetch(task.expert for of_session in tasks.values() for task in of_session)
    found = transaction.execute(select(*_SESSION_COLUMNS).where(SessionRow.id.in_(ids)))
    return [_session(row, tasks[row.id], experts) for row in found]


def _session(row: Any, tasks: Iterable[Any], experts: _Experts) -> Session:
    """Build a session from its rows; raise IntegrityError if they were altered."""
    try:
        session = Session(
            id=row.id,
            parent=row.parent,
            kind=row.kind,
            task=row.task,
            created_at=row.created_at,
            shared=row.shared,
            entries=tuple(_entry(task, experts) for task in tasks),
            note=row.note,
            codec=None if row.codec is None else CodecChoice(**row.codec),
        )
        valid = session.computed_id() == session.id and rows.is_ordinal(row.ordinal)
    except (*rows.NONSENSE, LookupError) as error:
        raise _altered(row.id) from error
    if not valid:
        raise _altered(row.id)
    return session


def _entry(row: Any, experts: _Experts) -> TaskEntry:
    expert, learned_in = experts[row.expert]
    return TaskEntry(
        name=row.name,
        expert=expert,
        part=row.part,
        learned_in=learned_in,
        record=row.record,
        drift=row.drift,
        codec_options=row.codec_options,
    )


def _altered(session_id: str) -> IntegrityError:
    return IntegrityError(
        f"the record of session {shown_id(session_id)} was altered after its commit",
        reason="session-altered",
        session=session_id,
    )
