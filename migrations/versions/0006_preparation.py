"""How the base model's pictures are prepared: a part of its identity that no hash covers."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; it stays NULL, so that the fingerprint of the configuration stays the same.

    What NULL means follows from the base model's name.
    """
    op.add_column("registry", sa.Column("base_preparation", sa.Text(), nullable=True))
