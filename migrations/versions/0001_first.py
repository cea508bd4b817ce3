"""The first schema: sessions of experts over immutable blobs, HEAD, a journal of operations."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "registry",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("format", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("written_by", sa.Text(), nullable=False),
        sa.Column("base_id", sa.Text(), nullable=False),
        sa.Column("base_architecture", sa.Text(), nullable=False),
        sa.Column("base_pretrained", sa.Text(), nullable=False),
        sa.Column("base_activation", sa.Text(), nullable=False),
        sa.Column("base_weights_sha256", sa.Text(), nullable=False),
        sa.Column("base_image_size", sa.Integer(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("codec", sa.Text(), nullable=False),
        sa.Column("codec_options", sa.Text(), nullable=False),
        sa.Column("parameters", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_registry")),
        sa.CheckConstraint("id = 1", name=op.f("ck_registry_single_row")),
    )
    op.create_table(
        "blobs",
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_blobs")),
        sa.CheckConstraint("length(sha256) = 64", name=op.f("ck_blobs_sha256_length")),
        sa.CheckConstraint("size >= 0", name=op.f("ck_blobs_size")),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("parent", sa.Text(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("shared", sa.Text(), nullable=True),
        sa.Column("note", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
        sa.ForeignKeyConstraint(["parent"], ["sessions.id"], name=op.f("fk_sessions_parent")),
        sa.ForeignKeyConstraint(["shared"], ["blobs.sha256"], name=op.f("fk_sessions_shared")),
        sa.UniqueConstraint("ordinal", name=op.f("uq_sessions_ordinal")),
        sa.CheckConstraint("length(id) = 64", name=op.f("ck_sessions_id_length")),
    )
    op.create_index(op.f("ix_sessions_parent"), "sessions", ["parent"])
    op.create_index(op.f("ix_sessions_shared"), "sessions", ["shared"])
    op.create_table(
        "experts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("learned_in", sa.Text(), nullable=False),
        sa.Column("classes", sa.Text(), nullable=False),
        sa.Column("templates", sa.Text(), nullable=False),
        sa.Column("prototypes", sa.Text(), nullable=False),
        sa.Column("training", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_experts")),
        sa.ForeignKeyConstraint(
            ["learned_in"], ["sessions.id"], name=op.f("fk_experts_learned_in")
        ),
        sa.ForeignKeyConstraint(
            ["prototypes"], ["blobs.sha256"], name=op.f("fk_experts_prototypes")
        ),
    )
    op.create_index(op.f("ix_experts_learned_in"), "experts", ["learned_in"])
    op.create_index(op.f("ix_experts_prototypes"), "experts", ["prototypes"])
    op.create_table(
        "session_tasks",
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("expert", sa.Integer(), nullable=False),
        sa.Column("part", sa.Text(), nullable=False),
        sa.Column("rescaler", sa.Float(), nullable=False),
        sa.Column("mask_density", sa.Float(), nullable=False),
        sa.Column("l1_norm", sa.Float(), nullable=False),
        sa.Column("drift", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("session", "position", name=op.f("pk_session_tasks")),
        sa.ForeignKeyConstraint(
            ["session"], ["sessions.id"], name=op.f("fk_session_tasks_session")
        ),
        sa.ForeignKeyConstraint(["expert"], ["experts.id"], name=op.f("fk_session_tasks_expert")),
        sa.ForeignKeyConstraint(["part"], ["blobs.sha256"], name=op.f("fk_session_tasks_part")),
        sa.UniqueConstraint("session", "name", name=op.f("uq_session_tasks_session_name")),
        sa.CheckConstraint("position >= 0", name=op.f("ck_session_tasks_position")),
        sa.CheckConstraint("rescaler >= 0", name=op.f("ck_session_tasks_rescaler")),
        sa.CheckConstraint(
            "mask_density BETWEEN 0 AND 1", name=op.f("ck_session_tasks_mask_density")
        ),
        sa.CheckConstraint("l1_norm >= 0", name=op.f("ck_session_tasks_l1_norm")),
    )
    op.create_index(op.f("ix_session_tasks_expert"), "session_tasks", ["expert"])
    op.create_index(op.f("ix_session_tasks_part"), "session_tasks", ["part"])
    op.create_table(
        "head",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("session", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_head")),
        sa.ForeignKeyConstraint(["session"], ["sessions.id"], name=op.f("fk_head_session")),
        sa.CheckConstraint("id = 1", name=op.f("ck_head_single_row")),
    )
    op.create_table(
        "operations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("from_session", sa.Text(), nullable=True),
        sa.Column("to_session", sa.Text(), nullable=True),
        sa.Column("command", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operations")),
        sa.ForeignKeyConstraint(
            ["from_session"], ["sessions.id"], name=op.f("fk_operations_from_session")
        ),
        sa.ForeignKeyConstraint(
            ["to_session"], ["sessions.id"], name=op.f("fk_operations_to_session")
        ),
        sqlite_autoincrement=True,
    )
