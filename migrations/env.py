"""Runs the migrations on the connection that the registry hands over.

The registry has begun the transaction and ends it, so that a failing migration leaves nothing
behind; there is no alembic.ini, and no logging is configured.
"""

from alembic import context

from condu_cli.registry.database.tables import Base

connection = context.config.attributes.get("connection")
if connection is None:
    raise RuntimeError("the registry runs its migrations itself: open it with condu")

context.configure(connection=connection, target_metadata=Base.metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
