"""What a method has settled for a registry: LoRA's rank, targets and shared initialisation."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A registry that is there already is fully fine-tuned, which has no options.

    Its fingerprint stays what it is: options that are empty do not enter it.
    """
    op.add_column(
        "registry",
        sa.Column("method_options", sa.Text(), server_default=sa.text("'{}'"), nullable=False),
    )
