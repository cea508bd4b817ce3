"""The tables of condu.sqlite.

An expert is one row, written when it is learned and shared by every session that has it.
`session_tasks` holds what differs between sessions: the name, the position, the codec's part and
record. So a rename is a new session with another name for the same expert. Rows of sessions never
change and are never removed: `packs` says which sessions are stored as a patch on another one,
`collected` those whose blobs were removed for good.

Kinds of sessions and operations are checked in Python only: SQLite changes a CHECK by rebuilding
the table, too high a price for one more kind.
"""

import json
import os
from typing import Any, ClassVar

from sqlalchemy import (
    CheckConstraint,
    Float,
    ForeignKey,
    Index,
    MetaData,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from condu_cli.registry.manifest import canonical_json
from condu_cli.texts import fault_in


class CanonicalJSON(TypeDecorator[Any]):
    """JSON as text; SQLAlchemy's own JSON type has a numeric affinity in SQLite."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Write canonical JSON, NULL for None."""
        return None if value is None else canonical_json(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """Read JSON back.

        Text that is not JSON is returned unchanged: the caller knows which session the row belongs
        to, notices that the content was altered, and can say so.
        """
        if value is None:
            return None
        try:
            return json.loads(value)
        except (ValueError, TypeError, RecursionError):
            return value


class PathText(TypeDecorator[str]):
    """A path, whose bytes need not be UTF-8; then they are stored as bytes."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | bytes | None:
        """Write text, or bytes if it is not text."""
        if value is None or fault_in(value) is None:
            return value
        return os.fsencode(value)

    def process_result_value(self, value: str | bytes | None, dialect: Dialect) -> str | None:
        """Read either back."""
        return os.fsdecode(value) if isinstance(value, bytes) else value


class Base(DeclarativeBase):
    """The registry's tables; constraints have names so that migrations can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    # Spelled out, because SQLAlchemy's defaults (float) differ between its versions.
    type_annotation_map: ClassVar = {
        str: Text,
        float: Float,
        dict[str, Any]: CanonicalJSON,
        list[Any]: CanonicalJSON,
    }


class RegistryRow(Base):
    """The registry's configuration in a single row, fixed when it is created."""

    __tablename__ = "registry"
    __table_args__ = (CheckConstraint("id = 1", name="single_row"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    format: Mapped[int]
    created_at: Mapped[str]
    # The version that created or last migrated the database, which older versions tell users.
    written_by: Mapped[str]
    base_id: Mapped[str]
    base_architecture: Mapped[str]
    base_pretrained: Mapped[str]
    base_activation: Mapped[str]
    base_weights_sha256: Mapped[str]
    base_image_size: Mapped[int]
    method: Mapped[str]
    codec: Mapped[str]
    codec_options: Mapped[dict[str, Any]]
    parameters: Mapped[list[Any]]
    # The sha256 of the configuration, which the hashes of blobs and manifests do not cover.
    fingerprint: Mapped[str | None]
    method_options: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    # How pictures are prepared; NULL if the registry is from before this was recorded.
    base_preparation: Mapped[dict[str, Any] | None]


class BlobRow(Base):
    """A blob that some row refers to. `kind` is shared, part, prototypes, head or patch.

    Not every blob has a file: those of a packed session are restored from its patch, those of a
    collected one are gone.
    """

    __tablename__ = "blobs"
    __table_args__ = (
        CheckConstraint("length(sha256) = 64", name="sha256_length"),
        CheckConstraint("size >= 0", name="size"),
    )

    sha256: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int]
    kind: Mapped[str]


class SessionRow(Base):
    """A session: the part of its manifest that is not about a single task."""

    __tablename__ = "sessions"
    __table_args__ = (
        CheckConstraint("length(id) = 64", name="id_length"),
        UniqueConstraint("ordinal"),
        Index(None, "parent"),
        Index(None, "shared"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    # The order of commits: clocks can go back.
    ordinal: Mapped[int]
    parent: Mapped[str | None] = mapped_column(ForeignKey("sessions.id"))
    kind: Mapped[str]
    task: Mapped[str]
    created_at: Mapped[str]
    shared: Mapped[str | None] = mapped_column(ForeignKey("blobs.sha256"))
    note: Mapped[dict[str, Any]]
    # Name and options; NULL means the registry's codec.
    codec: Mapped[dict[str, Any] | None]


class ExpertRow(Base):
    """What is recorded about an expert when it is learned."""

    __tablename__ = "experts"
    __table_args__ = (Index(None, "learned_in"), Index(None, "prototypes"), Index(None, "head"))

    id: Mapped[int] = mapped_column(primary_key=True)
    learned_in: Mapped[str] = mapped_column(ForeignKey("sessions.id"))
    classes: Mapped[list[Any]]
    templates: Mapped[list[Any]]
    prototypes: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"))
    # NULL for an expert without a head beside it.
    head: Mapped[str | None] = mapped_column(ForeignKey("blobs.sha256"))
    training: Mapped[dict[str, Any]]


class SessionTaskRow(Base):
    """One task in one session."""

    __tablename__ = "session_tasks"
    __table_args__ = (
        UniqueConstraint("session", "name"),
        CheckConstraint("position >= 0", name="position"),
        Index(None, "expert"),
        Index(None, "part"),
    )

    session: Mapped[str] = mapped_column(ForeignKey("sessions.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    expert: Mapped[int] = mapped_column(ForeignKey("experts.id"))
    part: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"))
    drift: Mapped[float | None]
    # The codec's record of the expert.
    record: Mapped[dict[str, Any]]
    # Options that differ from those of its session.
    codec_options: Mapped[dict[str, Any]]


class HeadRow(Base):
    """The single row that points at the current session; NULL before the first."""

    __tablename__ = "head"
    __table_args__ = (CheckConstraint("id = 1", name="single_row"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    session: Mapped[str | None] = mapped_column(ForeignKey("sessions.id"))


class OperationRow(Base):
    """One entry of the journal: an operation, and where it moved HEAD from and to."""

    __tablename__ = "operations"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[str]
    kind: Mapped[str]
    from_session: Mapped[str | None] = mapped_column(ForeignKey("sessions.id"))
    to_session: Mapped[str | None] = mapped_column(ForeignKey("sessions.id"))
    command: Mapped[str]


class TagRow(Base):
    """A user's name for a session, which protects the session from collection."""

    __tablename__ = "tags"
    __table_args__ = (Index(None, "session"),)

    name: Mapped[str] = mapped_column(primary_key=True)
    session: Mapped[str] = mapped_column(ForeignKey("sessions.id"))
    created_at: Mapped[str]


class PackRow(Base):
    """A session stored as a patch on another; if `patch` is NULL, their blobs are the same."""

    __tablename__ = "packs"
    __table_args__ = (
        CheckConstraint("session <> reference", name="reference"),
        Index(None, "reference"),
        Index(None, "patch"),
    )

    session: Mapped[str] = mapped_column(ForeignKey("sessions.id"), primary_key=True)
    reference: Mapped[str] = mapped_column(ForeignKey("sessions.id"))
    patch: Mapped[str | None] = mapped_column(ForeignKey("blobs.sha256"))


class CollectedRow(Base):
    """A session whose blobs were removed; only its record is left."""

    __tablename__ = "collected"

    session: Mapped[str] = mapped_column(ForeignKey("sessions.id"), primary_key=True)
    at: Mapped[str]


class SourceRow(Base):
    """The folder on this machine that an expert was learned from.

    Not in the expert's record, which is hashed and is copied with the registry.
    """

    __tablename__ = "sources"

    expert: Mapped[int] = mapped_column(ForeignKey("experts.id"), primary_key=True)
    folder: Mapped[str] = mapped_column(PathText)
