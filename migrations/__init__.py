"""Alembic environment of the registry's database; ships as condu_cli.migrations."""
