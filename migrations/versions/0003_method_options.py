"""A method's options in a registry: LoRA's rank, targets and shared initialisation."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Existing registries are fully fine-tuned, which has no options.

    Their fingerprints do not change: empty options are not part of them.
    """
    op.add_column(
        "registry",
        sa.Column("method_options", sa.Text(), server_default=sa.text("'{}'"), nullable=False),
    )
