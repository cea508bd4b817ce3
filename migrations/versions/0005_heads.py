"""An optional head beside an expert: the blob of a linear classifier on its features."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; session ids do not change, because no older expert has a head.

    SQLite can only add a named foreign key by rebuilding the table. The JSON in it is copied as
    text: parsed and written again it could differ from what was hashed.
    """
    found = op.get_bind().exec_driver_sql("SELECT * FROM experts ORDER BY id").mappings()
    experts = [{**row, "head": None} for row in found]
    op.drop_table("experts")
    table = _create_experts()
    if experts:
        op.bulk_insert(table, experts)


def _create_experts() -> sa.Table:
    table = op.create_table(
        "experts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("learned_in", sa.Text(), nullable=False),
        sa.Column("classes", sa.Text(), nullable=False),
        sa.Column("templates", sa.Text(), nullable=False),
        sa.Column("prototypes", sa.Text(), nullable=False),
        sa.Column("head", sa.Text(), nullable=True),
        sa.Column("training", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_experts")),
        sa.ForeignKeyConstraint(
            ["learned_in"], ["sessions.id"], name=op.f("fk_experts_learned_in")
        ),
        sa.ForeignKeyConstraint(
            ["prototypes"], ["blobs.sha256"], name=op.f("fk_experts_prototypes")
        ),
        sa.ForeignKeyConstraint(["head"], ["blobs.sha256"], name=op.f("fk_experts_head")),
    )
    for column in ("learned_in", "prototypes", "head"):
        op.create_index(op.f(f"ix_experts_{column}"), "experts", [column])
    return table
