"""Convert between manifest values and database rows; every function runs in a transaction."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Text, func, select, text, type_coerce
from sqlalchemy.orm import Session as Transaction

from condu_cli._version import __version__
from condu_cli.base_identity import BaseIdentity
from condu_cli.errors import ConduError, IntegrityError
from condu_cli.preprocessing import Preparation
from condu_cli.registry.blobs.store import BlobRef
from condu_cli.registry.database.tables import (
    BlobRow,
    ExpertRow,
    HeadRow,
    OperationRow,
    RegistryRow,
    SessionRow,
    SessionTaskRow,
)
from condu_cli.registry.manifest import (
    MANIFEST_FORMAT,
    CodecChoice,
    Expert,
    Operation,
    ParameterShape,
    RegistryConfig,
    Session,
    TaskEntry,
    short_id,
)

CHUNK = 500
"""The most values in one statement."""

BASE = "base_"
"""Prefix of the columns that hold the fields of the registry's `BaseIdentity`."""

T = TypeVar("T")

_LAST_ORDINAL = 2**62
_LINE = text(
    "WITH RECURSIVE line(id, parent) AS (SELECT id, parent FROM sessions WHERE id = :start "
    "UNION SELECT s.id, s.parent FROM sessions AS s JOIN line ON s.id = line.parent) "
    "SELECT id FROM line LIMIT :count"
)
"""UNION, not UNION ALL, so that the query ends even if a corrupt database has a cycle."""
NONSENSE = (ConduError, ValueError, TypeError, AttributeError, RecursionError)
"""What converting a row that condu did not write may raise."""


def insert_config(transaction: Transaction, config: RegistryConfig, created_at: str) -> None:
    """Insert the registry's configuration, and a HEAD that points at nothing."""
    transaction.add(
        RegistryRow(
            id=1,
            format=MANIFEST_FORMAT,
            created_at=created_at,
            written_by=__version__,
            **_base_columns(config.base),
            method=config.method,
            method_options=dict(config.method_options),
            codec=config.codec.name,
            codec_options=dict(config.codec.options),
            parameters=[[p.name, list(p.shape)] for p in config.parameters],
            fingerprint=config.fingerprint(),
        )
    )
    transaction.add(HeadRow(id=1, session=None))


def _base_columns(base: BaseIdentity) -> dict[str, Any]:
    columns = {field.name: getattr(base, field.name) for field in fields(BaseIdentity)}
    if base.preparation is not None:
        columns["preparation"] = base.preparation.to_record()
    return {BASE + name: value for name, value in columns.items()}


def _base_of(row: RegistryRow) -> BaseIdentity:
    columns = {field.name: getattr(row, BASE + field.name) for field in fields(BaseIdentity)}
    if columns["preparation"] is not None:
        columns["preparation"] = Preparation.from_record(columns["preparation"])
    return BaseIdentity(**columns)


def read_config(transaction: Transaction) -> tuple[RegistryConfig, str]:
    """Return the registry's configuration and its time of creation."""
    row = transaction.get(RegistryRow, 1)
    if row is None:
        raise IntegrityError("the registry's database is empty", reason="registry-unfinished")
    try:
        base = _base_of(row)
        parameters = tuple(ParameterShape(name, tuple(shape)) for name, shape in row.parameters)
        config = RegistryConfig(
            base,
            row.method,
            CodecChoice(row.codec, row.codec_options),
            parameters,
            row.method_options,
        )
        texts = (base.id, base.architecture, base.pretrained, base.activation, base.weights_sha256)
        require_texts("the registry", row.created_at, row.method, row.codec, *texts)
        valid = config.fingerprint() == row.fingerprint and isinstance(base.image_size, int)
        # An empty list would have the fingerprint of an empty record.
        valid = valid and isinstance(row.method_options, dict)
    except NONSENSE as error:
        raise _altered_config() from error
    if not valid:
        raise _altered_config()
    return config, row.created_at


def _altered_config() -> IntegrityError:
    return IntegrityError(
        "the registry's record of its base model, codec and parameters was altered",
        reason="record-altered",
    )


def head_id(transaction: Transaction) -> str | None:
    """Return the id of the session that HEAD points at, None before the first."""
    return _head_row(transaction).session


def move_head(
    transaction: Transaction, to: str | None, *, kind: str, command: str, at: str
) -> Operation:
    """Point HEAD at `to` and add a journal entry."""
    head = _head_row(transaction)
    row = OperationRow(at=at, kind=kind, from_session=head.session, to_session=to, command=command)
    head.session = to
    transaction.add(row)
    transaction.flush()
    return read_operation(row)


def _head_row(transaction: Transaction) -> HeadRow:
    row = transaction.get(HeadRow, 1)
    if row is None:
        raise altered_record("HEAD")
    require_texts("HEAD", optional=[row.session])
    return row


def require_texts(what: str, *values: object, optional: Iterable[object] = ()) -> None:
    """Raise IntegrityError naming `what` unless these values of a row are strings."""
    given = (value for value in optional if value is not None)
    if not all(isinstance(value, str) for value in (*values, *given)):
        raise altered_record(what)


def altered_record(what: str) -> IntegrityError:
    """Return the error for a row that is not as condu wrote it."""
    return IntegrityError(f"the database's record of {what} was altered", reason="record-altered")


def record(
    transaction: Transaction,
    *,
    kind: str,
    command: str,
    at: str,
    from_session: str | None = None,
    to_session: str | None = None,
) -> None:
    """Add a journal entry for an operation that does not move HEAD."""
    transaction.add(
        OperationRow(
            at=at, kind=kind, command=command, from_session=from_session, to_session=to_session
        )
    )


def read_operation(row: OperationRow) -> Operation:
    """Convert a row of the journal; raise IntegrityError if it was altered."""
    ends = (row.from_session, row.to_session)
    require_texts(f"operation {row.id}", row.at, row.kind, row.command, optional=ends)
    return Operation(row.id, row.at, row.kind, row.from_session, row.to_session, row.command)


def read_operations(transaction: Transaction) -> list[Operation]:
    """Return the journal, newest first."""
    rows = transaction.scalars(select(OperationRow).order_by(OperationRow.id.desc()))
    return [read_operation(row) for row in rows]


def newest_operations(transaction: Transaction) -> Iterator[Operation]:
    """Yield the journal lazily, newest first."""
    newest_first = select(OperationRow).order_by(OperationRow.id.desc())
    for row in transaction.scalars(newest_first.execution_options(yield_per=CHUNK)):
        yield read_operation(row)


def line(transaction: Transaction, session_id: str | None, count: int | None = None) -> list[str]:
    """Return an id and its ancestors' ids, newest first, at most `count` of them."""
    found = transaction.execute(
        _LINE, {"start": session_id, "count": -1 if count is None else count}
    )
    ids = [row[0] for row in found]
    require_texts("a session's id", *ids)
    return ids


def session_ids(transaction: Transaction) -> list[str]:
    """Return the ids of all sessions, newest first."""
    ids = list(transaction.scalars(select(SessionRow.id).order_by(SessionRow.ordinal.desc())))
    require_texts("a session's id", *ids)
    return ids


def ids_starting(transaction: Transaction, prefix: str) -> list[str]:
    """Return the ids of all sessions that begin with these hexadecimal digits, oldest first."""
    between = (SessionRow.id >= prefix) & (SessionRow.id < prefix + "g")
    return list(
        transaction.scalars(select(SessionRow.id).where(between).order_by(SessionRow.ordinal))
    )


def insert_session(transaction: Transaction, session: Session, blobs: Iterable[BlobRef]) -> None:
    """Insert a session with its new experts and blobs."""
    _insert_blobs(transaction, blobs, session.blob_kinds())
    last = transaction.scalar(select(func.max(SessionRow.ordinal))) or 0
    if not is_ordinal(last):
        raise altered_record("the order of sessions")
    transaction.add(
        SessionRow(
            id=session.id,
            ordinal=last + 1,
            parent=session.parent,
            kind=session.kind,
            task=session.task,
            created_at=session.created_at,
            shared=session.shared,
            note=dict(session.note),
            codec=None if session.codec is None else asdict(session.codec),
        )
    )
    transaction.flush()
    experts = _expert_ids(transaction, session)
    transaction.add_all(
        _task_row(session.id, position, entry, expert)
        for position, (entry, expert) in enumerate(zip(session.entries, experts, strict=True))
    )
    transaction.flush()


def blob_sizes(transaction: Transaction) -> dict[str, int]:
    """Map every blob's sha256 to its size in bytes."""
    sizes = {}
    for row in transaction.scalars(select(BlobRow)):
        if not (isinstance(row.sha256, str) and isinstance(row.size, int)):
            raise altered_record(f"blob {row.sha256!r}")
        sizes[row.sha256] = row.size
    return sizes


def insert_blob(transaction: Transaction, blob: BlobRef, kind: str) -> None:
    """Insert a blob's row unless it exists."""
    _insert_blobs(transaction, [blob], {blob.sha256: kind})


def _insert_blobs(
    transaction: Transaction, blobs: Iterable[BlobRef], kinds: Mapping[str, str]
) -> None:
    for chunk in chunks(blobs):
        wanted = [blob.sha256 for blob in chunk]
        known = set(transaction.scalars(select(BlobRow.sha256).where(BlobRow.sha256.in_(wanted))))
        transaction.add_all(
            BlobRow(sha256=blob.sha256, size=blob.size, kind=kinds[blob.sha256])
            for blob in chunk
            if blob.sha256 not in known
        )
    transaction.flush()


def _task_row(session_id: str, position: int, entry: TaskEntry, expert: int) -> SessionTaskRow:
    return SessionTaskRow(
        session=session_id,
        position=position,
        name=entry.name,
        expert=expert,
        part=entry.part,
        record=dict(entry.record),
        drift=entry.drift,
        codec_options=dict(entry.codec_options),
    )


def _expert_ids(transaction: Transaction, session: Session) -> list[int]:
    """Return the row id of each of a session's experts, inserting the new ones."""
    old = [entry for entry in session.entries if not _is_new(session, entry)]
    new = [
        ExpertRow(
            learned_in=session.id,
            classes=list(entry.expert.classes),
            templates=list(entry.expert.templates),
            prototypes=entry.expert.prototypes,
            head=entry.expert.head,
            training=dict(entry.expert.training),
        )
        for entry in session.entries
        if _is_new(session, entry)
    ]
    known = iter(_known_experts(transaction, old))
    transaction.add_all(new)
    transaction.flush()
    written = iter(row.id for row in new)
    return [next(written if _is_new(session, entry) else known) for entry in session.entries]


def _is_new(session: Session, entry: TaskEntry) -> bool:
    return entry.learned_in in (None, session.id)


def expert_id(transaction: Transaction, entry: TaskEntry) -> int:
    """Return the row id of an entry's expert; raise ConduError if there is no such expert."""
    return _known_experts(transaction, [entry])[0]


def _known_experts(transaction: Transaction, entries: Sequence[TaskEntry]) -> list[int]:
    found: dict[str | None, list[tuple[int, Expert]]] = defaultdict(list)
    for chunk in chunks(sorted({str(entry.learned_in) for entry in entries})):
        for row in transaction.scalars(select(ExpertRow).where(ExpertRow.learned_in.in_(chunk))):
            found[row.learned_in].append((row.id, read_expert(row)))
    return [_same_expert(entry, found[entry.learned_in]) for entry in entries]


def _same_expert(entry: TaskEntry, known: Iterable[tuple[int, Expert]]) -> int:
    for row_id, expert in known:
        if expert == entry.expert:
            return row_id
    raise ConduError(
        f"the expert of {entry.name!r} is not the one that session "
        f"{short_id(entry.learned_in or '')} learned",
        reason="expert-differs",
        task=entry.name,
        session=entry.learned_in,
    )


def sessions_with_run(transaction: Transaction, run: str) -> list[str]:
    """Return the ids of the sessions with an expert of this run, newest first."""
    # SQLite searches the text: a registry may have thousands of experts.
    named = select(ExpertRow.id, ExpertRow.training).where(
        func.instr(type_coerce(ExpertRow.training, Text), run) > 0
    )
    experts = [
        expert
        for expert, record in transaction.execute(named)
        if isinstance(record, dict) and record.get("run") == run
    ]
    found = select(SessionRow.id).join(SessionTaskRow, SessionTaskRow.session == SessionRow.id)
    newest_first = found.where(SessionTaskRow.expert.in_(experts)).order_by(
        SessionRow.ordinal.desc()
    )
    return list(transaction.scalars(newest_first))


def is_ordinal(value: Any) -> bool:
    """Return whether a value can be a session's place in the order of commits."""
    return isinstance(value, int) and 0 <= value < _LAST_ORDINAL


def read_expert(row: Any) -> Expert:
    """Convert a row of an expert; raise IntegrityError if it was altered."""
    try:
        return Expert(
            tuple(row.classes), tuple(row.templates), row.prototypes, row.training, row.head
        )
    except NONSENSE as error:
        raise altered_record("an expert") from error


def chunks(values: Iterable[T]) -> Iterator[list[T]]:
    """Split values into lists that one statement can take."""
    rest = iter(values)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk
