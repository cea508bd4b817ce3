"""Rewrite `schema.sql` after adding a migration: run `python write_schema.py` in this folder."""

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from condu_cli.registry.database import migration


def migrated_schema(database: Path) -> str:
    """Return the SQL of a new file after all migrations, in order of creation."""
    database.touch()
    migration._upgrade(database)
    query = "SELECT sql FROM sqlite_master WHERE name NOT GLOB 'sqlite_*' ORDER BY rowid"
    with closing(sqlite3.connect(database)) as connection:
        return "".join(f"{sql};\n" for (sql,) in connection.execute(query))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        schema = migrated_schema(Path(folder, "migrated.sqlite"))
    migration.SCHEMA.write_text(schema, encoding="utf-8")
