"""Between the manifest's values and the database's rows; every function runs in a transaction."""

from collections.abc import Iterable
from dataclasses import astuple
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session as Transaction

from condu_cli._version import __version__
from condu_cli.base_identity import BaseIdentity
from condu_cli.errors import ConduError, IntegrityError
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
    Expert,
    Operation,
    ParameterShape,
    RegistryConfig,
    Session,
    TaskEntry,
    short_id,
)
from condu_cli.registry.names import shown_id

_LAST_ORDINAL = 2**62
_NONSENSE = (ConduError, ValueError, TypeError, AttributeError, RecursionError)
"""What is raised where a row that condu did not write is made into a value."""


def insert_config(transaction: Transaction, config: RegistryConfig, created_at: str) -> None:
    """Write what the registry is, and a HEAD that points at nothing."""
    base = config.base
    transaction.add(
        RegistryRow(
            id=1,
            format=MANIFEST_FORMAT,
            created_at=created_at,
            written_by=__version__,
            base_id=base.id,
            base_architecture=base.architecture,
            base_pretrained=base.pretrained,
            base_activation=base.activation,
            base_weights_sha256=base.weights_sha256,
            base_image_size=base.image_size,
            method=config.method,
            method_options=dict(config.method_options),
            codec=config.codec,
            codec_options=dict(config.codec_options),
            parameters=[[p.name, list(p.shape)] for p in config.parameters],
            fingerprint=config.fingerprint(),
        )
    )
    transaction.add(HeadRow(id=1, session=None))


def read_config(transaction: Transaction) -> tuple[RegistryConfig, str]:
    """Return what the registry is, and when it was created."""
    row = transaction.get(RegistryRow, 1)
    if row is None:
        raise IntegrityError("the registry's database is empty", reason="registry-unfinished")
    base = BaseIdentity(
        id=row.base_id,
        architecture=row.base_architecture,
        pretrained=row.base_pretrained,
        activation=row.base_activation,
        weights_sha256=row.base_weights_sha256,
        image_size=row.base_image_size,
    )
    try:
        parameters = tuple(ParameterShape(name, tuple(shape)) for name, shape in row.parameters)
        config = RegistryConfig(
            base, row.method, row.codec, row.codec_options, parameters, row.method_options
        )
        require_texts("the registry", row.created_at, row.method, row.codec, *astuple(base)[:-1])
        sound = config.fingerprint() == row.fingerprint and isinstance(base.image_size, int)
        # An empty list would make the same fingerprint as the empty record that it is not.
        sound = sound and isinstance(row.method_options, dict)
    except _NONSENSE as error:
        raise _altered_config() from error
    if not sound:
        raise _altered_config()
    return config, row.created_at


def _altered_config() -> IntegrityError:
    return IntegrityError(
        "the registry's record of its base model, codec and parameters is not what was written",
        reason="record-altered",
    )


def head_id(transaction: Transaction) -> str | None:
    """Return the id of the session that HEAD points at, None before the first."""
    return _head_row(transaction).session


def move_head(
    transaction: Transaction, to: str | None, *, kind: str, command: str, at: str
) -> Operation:
    """Point HEAD at `to` and write into the journal that it moved."""
    head = _head_row(transaction)
    row = OperationRow(at=at, kind=kind, from_session=head.session, to_session=to, command=command)
    head.session = to
    transaction.add(row)
    transaction.flush()
    return read_operation(row)


def _head_row(transaction: Transaction) -> HeadRow:
    row = transaction.get(HeadRow, 1)
    if row is None:
        raise noted_wrongly("HEAD")
    require_texts("HEAD", optional=[row.session])
    return row


def require_texts(what: str, *values: object, optional: Iterable[object] = ()) -> None:
    """Raise IntegrityError naming `what` unless these values of a row are texts."""
    given = (value for value in optional if value is not None)
    if not all(isinstance(value, str) for value in (*values, *given)):
        raise noted_wrongly(what)


def noted_wrongly(what: str) -> IntegrityError:
    """Return the error for a row that condu did not write so."""
    return IntegrityError(
        f"the database's record of {what} is not what was written", reason="record-altered"
    )


def record(
    transaction: Transaction,
    *,
    kind: str,
    command: str,
    at: str,
    from_session: str | None = None,
    to_session: str | None = None,
) -> None:
    """Write a line into the journal that does not move HEAD."""
    transaction.add(
        OperationRow(
            at=at, kind=kind, command=command, from_session=from_session, to_session=to_session
        )
    )


def read_operation(row: OperationRow) -> Operation:
    """Return the value of a journal row; raise IntegrityError for one that has no such."""
    ends = (row.from_session, row.to_session)
    require_texts(f"operation {row.id}", row.at, row.kind, row.command, optional=ends)
    return Operation(row.id, row.at, row.kind, row.from_session, row.to_session, row.command)


def read_operations(transaction: Transaction) -> list[Operation]:
    """Return the journal, newest first."""
    rows = transaction.scalars(select(OperationRow).order_by(OperationRow.id.desc()))
    return [read_operation(row) for row in rows]


def read_session(row: SessionRow) -> Session:
    """Return the value of a session row; raise IntegrityError if it was altered since."""
    try:
        session = Session(
            id=row.id,
            parent=row.parent,
            kind=row.kind,
            task=row.task,
            created_at=row.created_at,
            shared=row.shared,
            entries=tuple(_read_entry(task) for task in row.tasks),
            note=row.note,
        )
        sound = session.computed_id() == session.id and _is_ordinal(row.ordinal)
    except _NONSENSE as error:
        raise _altered(row.id) from error
    if not sound:
        raise _altered(row.id)
    return session


def insert_session(transaction: Transaction, session: Session, blobs: Iterable[BlobRef]) -> None:
    """Write a session, the experts it introduces and the blobs that are new with it."""
    kinds = session.blob_kinds()
    for blob in blobs:
        insert_blob(transaction, blob, kinds[blob.sha256])
    last = transaction.scalar(select(func.max(SessionRow.ordinal))) or 0
    if not _is_ordinal(last):
        raise noted_wrongly("the order of sessions")
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
        )
    )
    transaction.flush()
    for position, entry in enumerate(session.entries):
        transaction.add(_task_row(transaction, session.id, position, entry))
    transaction.flush()


def blob_sizes(transaction: Transaction) -> dict[str, int]:
    """Map every blob's sha256 to its size in bytes."""
    sizes = {}
    for row in transaction.scalars(select(BlobRow)):
        if not (isinstance(row.sha256, str) and isinstance(row.size, int)):
            raise noted_wrongly(f"blob {row.sha256!r}")
        sizes[row.sha256] = row.size
    return sizes


def insert_blob(transaction: Transaction, blob: BlobRef, kind: str) -> None:
    """Write a blob's row unless it has one."""
    if transaction.get(BlobRow, blob.sha256) is None:
        transaction.add(BlobRow(sha256=blob.sha256, size=blob.size, kind=kind))
        transaction.flush()


def _task_row(
    transaction: Transaction, session_id: str, position: int, entry: TaskEntry
) -> SessionTaskRow:
    return SessionTaskRow(
        session=session_id,
        position=position,
        name=entry.name,
        expert=_expert_id(transaction, session_id, entry),
        part=entry.part,
        rescaler=entry.rescaler,
        mask_density=entry.mask_density,
        l1_norm=entry.l1_norm,
        drift=entry.drift,
    )


def _expert_id(transaction: Transaction, session_id: str, entry: TaskEntry) -> int:
    """Return the row of an expert that the registry has, or write that of a new one."""
    if entry.learned_in is None or entry.learned_in == session_id:
        row = ExpertRow(
            learned_in=session_id,
            classes=list(entry.expert.classes),
            templates=list(entry.expert.templates),
            prototypes=entry.expert.prototypes,
            training=dict(entry.expert.training),
        )
        transaction.add(row)
        transaction.flush()
        return row.id
    return expert_id(transaction, entry)


def expert_id(transaction: Transaction, entry: TaskEntry) -> int:
    """Return the row of an entry's expert; raise ConduError if the registry has no such one."""
    known = select(ExpertRow).where(ExpertRow.learned_in == entry.learned_in)
    for row in transaction.scalars(known):
        if _read_expert(row) == entry.expert:
            return row.id
    raise ConduError(
        f"the expert of {entry.name!r} is not the one that session "
        f"{short_id(entry.learned_in or '')} learned",
        reason="expert-differs",
        task=entry.name,
        session=entry.learned_in,
    )


def sessions_with_run(transaction: Transaction, run: str) -> list[str]:
    """Return the ids of the sessions with an expert of this run, the newest first."""
    experts = [
        expert
        for expert, record in transaction.execute(select(ExpertRow.id, ExpertRow.training))
        if isinstance(record, dict) and record.get("run") == run
    ]
    found = select(SessionRow.id).join(SessionTaskRow, SessionTaskRow.session == SessionRow.id)
    newest_first = found.where(SessionTaskRow.expert.in_(experts)).order_by(
        SessionRow.ordinal.desc()
    )
    return list(transaction.scalars(newest_first))


def _is_ordinal(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < _LAST_ORDINAL


def _read_expert(row: ExpertRow) -> Expert:
    try:
        return Expert(tuple(row.classes), tuple(row.templates), row.prototypes, row.training)
    except _NONSENSE as error:
        raise noted_wrongly("an expert") from error


def _read_entry(row: SessionTaskRow) -> TaskEntry:
    return TaskEntry(
        name=row.name,
        expert=_read_expert(row.expert_row),
        part=row.part,
        learned_in=row.expert_row.learned_in,
        rescaler=row.rescaler,
        mask_density=row.mask_density,
        l1_norm=row.l1_norm,
        drift=row.drift,
    )


def _altered(session_id: str) -> IntegrityError:
    return IntegrityError(
        f"the record of session {shown_id(session_id)} is not what was committed",
        reason="session-altered",
        session=session_id,
    )
