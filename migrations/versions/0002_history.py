"""Tags, sessions stored as patches, collected sessions, and the registry's fingerprint."""

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

IMPLIED = {"dtype": "float32", "rescaler": "global"}
"""What the codec did before it had these options; registries now record every option."""

FINGERPRINTED = """
SELECT base_id, base_architecture, base_pretrained, base_activation, base_weights_sha256,
       base_image_size, method, codec, codec_options, parameters FROM registry
"""


def upgrade() -> None:
    op.create_table(
        "tags",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_tags")),
        sa.ForeignKeyConstraint(["session"], ["sessions.id"], name=op.f("fk_tags_session")),
    )
    op.create_index(op.f("ix_tags_session"), "tags", ["session"])
    op.create_table(
        "packs",
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("patch", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("session", name=op.f("pk_packs")),
        sa.ForeignKeyConstraint(["session"], ["sessions.id"], name=op.f("fk_packs_session")),
        sa.ForeignKeyConstraint(["reference"], ["sessions.id"], name=op.f("fk_packs_reference")),
        sa.ForeignKeyConstraint(["patch"], ["blobs.sha256"], name=op.f("fk_packs_patch")),
        sa.CheckConstraint("session <> reference", name=op.f("ck_packs_reference")),
    )
    op.create_index(op.f("ix_packs_reference"), "packs", ["reference"])
    op.create_index(op.f("ix_packs_patch"), "packs", ["patch"])
    op.create_table(
        "collected",
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("session", name=op.f("pk_collected")),
        sa.ForeignKeyConstraint(["session"], ["sessions.id"], name=op.f("fk_collected_session")),
    )
    op.create_table(
        "sources",
        sa.Column("expert", sa.Integer(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("expert", name=op.f("pk_sources")),
        sa.ForeignKeyConstraint(["expert"], ["experts.id"], name=op.f("fk_sources_expert")),
    )
    op.add_column("registry", sa.Column("fingerprint", sa.Text(), nullable=True))
    _name_implied_options()
    _fingerprint_what_is_there()


def _name_implied_options() -> None:
    """Record missing options: later defaults must not change an existing registry."""
    connection = op.get_bind()
    row = connection.exec_driver_sql("SELECT codec, codec_options FROM registry").fetchone()
    if row is not None and row[0] == "condu":
        options = json.dumps(
            {**IMPLIED, **json.loads(row[1])},
            sort_keys=True,
            separators=(",", ":"),
            allow_nan=False,
        )
        connection.exec_driver_sql("UPDATE registry SET codec_options = ?", (options,))


def _fingerprint_what_is_there() -> None:
    """Compute the fingerprint like `RegistryConfig.fingerprint` when this was written."""
    connection = op.get_bind()
    row = connection.exec_driver_sql(FINGERPRINTED).fetchone()
    if row is None:  # a new database, whose creator will set the fingerprint
        return
    base = dict(
        zip(
            ("id", "architecture", "pretrained", "activation", "weights_sha256", "image_size"),
            row[:6],
            strict=True,
        )
    )
    record = {
        "base": base,
        "method": row[6],
        "codec": row[7],
        "codec_options": json.loads(row[8]),
        "parameters": json.loads(row[9]),
    }
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    connection.exec_driver_sql(
        "UPDATE registry SET fingerprint = ?", (hashlib.sha256(text.encode()).hexdigest(),)
    )
