"""A separate record for a codec's figures of an expert, and an optional codec per session."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

RECORDED = ("rescaler", "mask_density", "l1_norm")
"""Figures of the codec `condu`, the only one until now, which were columns."""

ENTRIES = """
SELECT session, position, name, expert, part, drift, rescaler, mask_density, l1_norm
FROM session_tasks
"""


def upgrade() -> None:
    """Move the figures into records; session ids do not change.

    A manifest holds a record's keys where it held the figures. Existing sessions and entries lack
    the new fields, which means the registry's codec and the session's options.
    """
    op.add_column("sessions", sa.Column("codec", sa.Text(), nullable=True))
    # SQLite can only drop a column that a CHECK mentions by rebuilding the table.
    rows = op.get_bind().exec_driver_sql(ENTRIES).mappings()
    entries = [_entry(dict(row)) for row in rows]
    op.drop_table("session_tasks")
    table = _create_session_tasks()
    if entries:
        op.bulk_insert(table, entries)


def _entry(row: dict[str, object]) -> dict[str, object]:
    """Build a row in Python: SQLite's own JSON would round the figures."""
    record = {name: row.pop(name) for name in RECORDED}
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return {**row, "record": text, "codec_options": "{}"}


def _create_session_tasks() -> sa.Table:
    table = op.create_table(
        "session_tasks",
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("expert", sa.Integer(), nullable=False),
        sa.Column("part", sa.Text(), nullable=False),
        sa.Column("drift", sa.Float(), nullable=True),
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("codec_options", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("session", "position", name=op.f("pk_session_tasks")),
        sa.ForeignKeyConstraint(
            ["session"], ["sessions.id"], name=op.f("fk_session_tasks_session")
        ),
        sa.ForeignKeyConstraint(["expert"], ["experts.id"], name=op.f("fk_session_tasks_expert")),
        sa.ForeignKeyConstraint(["part"], ["blobs.sha256"], name=op.f("fk_session_tasks_part")),
        sa.UniqueConstraint("session", "name", name=op.f("uq_session_tasks_session_name")),
        sa.CheckConstraint("position >= 0", name=op.f("ck_session_tasks_position")),
    )
    op.create_index(op.f("ix_session_tasks_expert"), "session_tasks", ["expert"])
    op.create_index(op.f("ix_session_tasks_part"), "session_tasks", ["part"])
    return table
