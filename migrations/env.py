"""Run the migrations on the connection that the registry passes.

The registry begins and ends the transaction, so that a failed migration leaves nothing behind.
There is no alembic.ini, and no logging is configured.
"""

from alembic import context

from condu_cli.registry.database.tables import Base

connection = context.config.attributes.get("connection")
if connection is None:
    raise RuntimeError("the registry runs its migrations itself: open it with condu")

context.configure(connection=connection, target_metadata=Base.metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
