"""What is recorded outside the manifests: tags, packs, collected sessions, picture folders.

Every function runs in a transaction.
"""

from collections.abc import Iterable

from sqlalchemy import delete, select
from sqlalchemy.orm import Session as Transaction

from condu_cli.errors import NotFoundError, UsageError
from condu_cli.registry.blobs.store import BlobRef
from condu_cli.registry.database import rows
from condu_cli.registry.database.tables import CollectedRow, PackRow, SourceRow, TagRow
from condu_cli.registry.manifest import Pack, TaskEntry, short_id


def tags(transaction: Transaction) -> dict[str, str]:
    """Map every tag to the id of its session, sorted by name."""
    found = transaction.scalars(select(TagRow).order_by(TagRow.name)).all()
    for row in found:
        rows.require_texts(f"tag {row.name!r}", row.name, row.session)
    return {row.name: row.session for row in found}


def add_tag(transaction: Transaction, name: str, session: str, command: str, at: str) -> None:
    """Add a tag and its journal entry; raise UsageError if the name is in use."""
    known = transaction.get(TagRow, name)
    if known is not None:
        raise UsageError(
            f"the tag {name!r} already exists, at session {short_id(known.session)}",
            reason="tag-exists",
            tag=name,
            session=known.session,
        )
    transaction.add(TagRow(name=name, session=session, created_at=at))
    rows.record(transaction, kind="tag", command=command, at=at, to_session=session)


def remove_tag(transaction: Transaction, name: str, command: str, at: str) -> str:
    """Remove a tag and return the id of its session; raise NotFoundError if there is none."""
    row = transaction.get(TagRow, name)
    if row is None:
        known = list(tags(transaction))
        raise NotFoundError(
            f"there is no tag {name!r}", reason="no-such-tag", tag=name, known=known
        )
    session = row.session
    transaction.delete(row)
    rows.record(transaction, kind="untag", command=command, at=at, from_session=session)
    return session


def packs(transaction: Transaction) -> dict[str, Pack]:
    """Map the id of every packed session to how it is stored."""
    return {row.session: _pack(row) for row in transaction.scalars(select(PackRow))}


def pack(transaction: Transaction, session: str) -> Pack | None:
    """Return how a session is packed, None if it has files."""
    row = transaction.get(PackRow, session)
    return None if row is None else _pack(row)


def _pack(row: PackRow) -> Pack:
    name = f"packed session {row.session!r}"
    rows.require_texts(name, row.session, row.reference, optional=[row.patch])
    return Pack(row.session, row.reference, row.patch)


def set_pack(transaction: Transaction, session: str, reference: str, patch: BlobRef | None) -> None:
    """Record how a session is packed, replacing any earlier record."""
    if patch is not None:
        rows.insert_blob(transaction, patch, "patch")
    row = transaction.get(PackRow, session)
    if row is None:
        row = PackRow(session=session)
        transaction.add(row)
    row.reference = reference
    row.patch = None if patch is None else patch.sha256


def remove_pack(transaction: Transaction, session: str) -> None:
    """Record that a session now has its own files."""
    row = transaction.get(PackRow, session)
    if row is not None:
        transaction.delete(row)


def collected(transaction: Transaction) -> dict[str, str]:
    """Map the id of every collected session to the time of its collection."""
    found = transaction.scalars(select(CollectedRow)).all()
    for row in found:
        rows.require_texts(f"collected session {row.session!r}", row.session, row.at)
    return {row.session: row.at for row in found}


def collected_at(transaction: Transaction, session: str) -> str | None:
    """Return when a session was collected, None if it was not."""
    row = transaction.get(CollectedRow, session)
    if row is not None:
        rows.require_texts(f"collected session {row.session!r}", row.session, row.at)
    return None if row is None else row.at


def collect(transaction: Transaction, sessions: Iterable[str], command: str, at: str) -> None:
    """Record that these sessions are given up, with a journal entry."""
    for chunk in rows.chunks(sessions):
        transaction.execute(delete(PackRow).where(PackRow.session.in_(chunk)))
        transaction.add_all(CollectedRow(session=session, at=at) for session in chunk)
    rows.record(transaction, kind="gc", command=command, at=at)


def set_source(transaction: Transaction, entry: TaskEntry, folder: str) -> None:
    """Record the folder that an entry's expert was learned from."""
    expert = rows.expert_id(transaction, entry)
    transaction.merge(SourceRow(expert=expert, folder=folder))


def source(transaction: Transaction, entry: TaskEntry) -> str | None:
    """Return the folder that an entry's expert was learned from, None if unknown."""
    row = transaction.get(SourceRow, rows.expert_id(transaction, entry))
    return None if row is None else row.folder
