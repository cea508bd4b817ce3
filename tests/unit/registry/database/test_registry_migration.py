import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from write_schema import migrated_schema

from condu_cli import __version__
from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import ConduError, IntegrityError, LockedError, RegistryTooNewError
from condu_cli.registry.database import migration
from condu_cli.registry.database.engine import make_engine
from condu_cli.registry.database.tables import Base
from condu_cli.registry.files.lock import RegistryLock
from condu_cli.registry.manifest import RegistryConfig
from condu_cli.registry.repository import Registry

NEXT = '''"""A later schema."""
import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade():
    op.create_table("moods", sa.Column("name", sa.Text(), primary_key=True))
    op.add_column("blobs", sa.Column("note", sa.Text()))
'''


def execute(registry: Registry, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(registry.paths.database)) as connection:
        rows = connection.execute(statement).fetchall()
        connection.commit()
        return rows


@pytest.fixture
def later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: Registry) -> Path:
    """Simulate a future version with one more migration; return its file."""
    scripts = tmp_path / "100% later"
    shutil.copytree(migration.migrations_folder(), scripts)
    script = scripts / "versions" / "0007_next.py"
    script.write_text(NEXT)
    monkeypatch.setattr(migration, "migrations_folder", lambda: scripts)
    monkeypatch.setattr(migration, "SCHEMA_REVISION", "0007")
    return script


def test_the_constant_is_the_head_of_the_scripts() -> None:
    scripts = ScriptDirectory(str(migration.migrations_folder()))
    assert scripts.get_heads() == [migration.SCHEMA_REVISION]


def test_the_migrations_make_exactly_the_models_tables(registry: Registry) -> None:
    with make_engine(registry.paths.database).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_the_migrations_make_the_models_constraints_too(registry: Registry) -> None:
    """Autogenerate ignores CHECKs and key options, so compare the tables' SQL."""
    import sqlalchemy as sa

    plain = sa.create_engine("sqlite://")
    Base.metadata.create_all(plain)
    query = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"
    with plain.connect() as connection:
        wanted = {name: _words(sql) for name, sql in connection.exec_driver_sql(query)}
    plain.dispose()
    made = {str(name): _words(str(sql)) for name, sql in execute(registry, query)}
    del made["alembic_version"]
    assert made == wanted


def _words(sql: str) -> list[str]:
    return sorted(sql.replace(",", " ").replace("(", " ( ").replace(")", " ) ").split())


def test_a_new_database_is_what_the_migrations_make(registry: Registry, tmp_path: Path) -> None:
    """Compare word for word: an archive is refused if its tables differ at all."""
    migrated = tmp_path / "migrated.sqlite"
    assert migration.SCHEMA.read_text() == migrated_schema(migrated), "run write_schema.py here"
    assert schema(registry.paths.database) == schema(migrated)


def schema(database: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        # Ignore root pages: migrations leave free pages after rebuilding a table.
        query = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY rowid"
        found = connection.execute(query).fetchall()
        return found + connection.execute("SELECT * FROM alembic_version").fetchall()


def test_creating_a_database_imports_no_alembic(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from condu_cli.registry.database.migration import create_database;"
        "from condu_cli.registry.files.paths import RegistryPaths;"
        "create_database(RegistryPaths(Path(sys.argv[1])));"
        "print('alembic' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["False"]


def test_a_new_registry_has_the_current_revision_and_says_who_wrote_it(registry: Registry) -> None:
    assert migration.current_revision(registry.paths.database) == migration.SCHEMA_REVISION
    assert execute(registry, "SELECT written_by FROM registry") == [(__version__,)]
    assert execute(registry, "PRAGMA journal_mode") == [("wal",)]


def test_opening_a_current_registry_writes_nothing_and_imports_no_alembic(
    registry: Registry,
) -> None:
    before = {path: path.stat().st_mtime_ns for path in registry.path.rglob("*")}
    code = (
        "import sys; from pathlib import Path;"
        "from condu_cli.registry.repository import Registry;"
        "Registry.open(Path(sys.argv[1])).sessions();"
        "print('alembic' in sys.modules, 'torch' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(registry.path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["False", "False"]
    assert run.stderr == ""
    unchanged = {path: path.stat().st_mtime_ns for path in registry.path.rglob("*")}
    files = {path for path in before if path.is_file()}
    assert unchanged.keys() == before.keys()
    assert {path: unchanged[path] for path in files} == {path: before[path] for path in files}


@pytest.mark.usefixtures("later")
def test_an_older_registry_is_backed_up_and_upgraded(
    registry: Registry, capfd: pytest.CaptureFixture[str]
) -> None:
    execute(registry, "UPDATE registry SET written_by = '0.0.1'")
    told: list[str] = []
    again = Registry.open(registry.path, notify=told.append)
    assert again.config == registry.config
    assert migration.current_revision(registry.paths.database) == "0007"
    assert execute(registry, "SELECT count(*) FROM moods") == [(0,)]
    assert execute(registry, "SELECT written_by FROM registry") == [(__version__,)]

    (backup,) = registry.paths.backups.iterdir()
    assert backup.suffix == ".sqlite"
    with closing(sqlite3.connect(backup)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [
            ("0006",)
        ]
        assert connection.execute("SELECT written_by FROM registry").fetchall() == [("0.0.1",)]
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert [path.name for path in registry.paths.backups.iterdir()] == [backup.name]

    (line,) = told
    assert "\n" not in line
    assert "0006 to 0007" in line
    assert str(backup) in line
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.usefixtures("later")
def test_a_registry_is_migrated_once(registry: Registry) -> None:
    told: list[str] = []
    Registry.open(registry.path, notify=told.append)
    Registry.open(registry.path, notify=told.append)
    assert len(told) == 1
    assert len(list(registry.paths.backups.iterdir())) == 1


def test_a_failing_migration_leaves_the_database_unchanged(registry: Registry, later: Path) -> None:
    later.write_text(NEXT + '    op.execute("INSERT INTO nowhere VALUES (1)")\n')  # noqa: S608
    with pytest.raises(IntegrityError, match="no such table: nowhere"):
        Registry.open(registry.path)
    assert migration.current_revision(registry.paths.database) == "0006"
    tables = execute(registry, "SELECT name FROM sqlite_master WHERE name = 'moods'")
    assert tables == []
    assert not any(row[1] == "note" for row in execute(registry, "PRAGMA table_info(blobs)"))


def test_a_migration_that_orphans_rows_is_refused(registry: Registry, later: Path) -> None:
    later.write_text(NEXT + "    op.get_bind().exec_driver_sql('UPDATE head SET session = 1')\n")  # noqa: S608
    with pytest.raises(IntegrityError, match="1 rows without a parent"):
        Registry.open(registry.path)
    assert migration.current_revision(registry.paths.database) == "0006"
    assert execute(registry, "SELECT session FROM head") == [(None,)]


@pytest.mark.usefixtures("later")
def test_a_migration_waits_for_the_lock(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire = RegistryLock.acquire
    with registry.lock("condu learn"):
        monkeypatch.setattr(
            RegistryLock, "acquire", lambda self, command: acquire(self, command, timeout=0)
        )
        with pytest.raises(LockedError, match="condu learn"):
            migration.ensure_current(registry.paths)
    assert migration.current_revision(registry.paths.database) == "0006"


@pytest.mark.usefixtures("later")
def test_without_a_backup_there_is_no_migration(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(migration, "flush_file", full)
    with pytest.raises(ConduError, match="No space left on device"):
        Registry.open(registry.path)
    assert migration.current_revision(registry.paths.database) == "0006"
    assert list(registry.paths.backups.iterdir()) == []


@pytest.mark.usefixtures("later")
def test_a_missing_folder_for_backups_is_made(registry: Registry) -> None:
    registry.paths.backups.rmdir()
    Registry.open(registry.path)
    assert len(list(registry.paths.backups.iterdir())) == 1


@pytest.mark.usefixtures("later")
def test_a_file_in_the_place_of_the_backups_prevents_the_migration(registry: Registry) -> None:
    registry.paths.backups.rmdir()
    registry.paths.backups.write_text("mine")
    with pytest.raises(ConduError, match="cannot back the database up"):
        Registry.open(registry.path)
    assert migration.current_revision(registry.paths.database) == "0006"


@pytest.mark.parametrize("error", ["ValueError('x')", "TypeError('x')", "RecursionError('x')"])
def test_a_migration_that_stumbles_over_a_row_is_an_integrity_error(
    registry: Registry, later: Path, error: str
) -> None:
    later.write_text(NEXT + f"    raise {error}\n")
    with pytest.raises(IntegrityError, match=r"condu.sqlite cannot be migrated: .*\(x\)"):
        Registry.open(registry.path)
    assert migration.current_revision(registry.paths.database) == "0006"


def test_a_newer_registry_is_refused_and_names_what_to_install(registry: Registry) -> None:
    execute(registry, "UPDATE alembic_version SET version_num = '0042'")
    execute(registry, "UPDATE registry SET written_by = '9.8.7'")
    with pytest.raises(RegistryTooNewError) as refused:
        Registry.open(registry.path)
    assert refused.value.exit_code == 12
    assert "schema 0042, written by condu 9.8.7" in refused.value.message
    assert f"condu {__version__} knows schemas up to 0006" in refused.value.message
    assert hint_of(refused.value) == "Upgrade: pip install --upgrade 'condu>=9.8.7'"


@pytest.mark.parametrize("writer", ["0.2'; rm -rf ~; '", "", "9" * 50, "1\n2"])
def test_what_a_newer_registry_says_to_be_written_by_is_pasted_only_if_it_is_a_version(
    registry: Registry, writer: str
) -> None:
    execute(registry, "UPDATE alembic_version SET version_num = '0042\n'")
    with closing(sqlite3.connect(registry.paths.database)) as connection:
        connection.execute("UPDATE registry SET written_by = ?", (writer,))
        connection.commit()
    with pytest.raises(RegistryTooNewError) as refused:
        Registry.open(registry.path)
    assert hint_of(refused.value) == "Upgrade: pip install --upgrade condu"
    assert "\n" not in refused.value.message


def test_a_newer_registry_with_other_tables_is_refused_too(registry: Registry) -> None:
    execute(registry, "UPDATE alembic_version SET version_num = '0042'")
    execute(registry, "DROP TABLE registry")
    with pytest.raises(RegistryTooNewError) as refused:
        Registry.open(registry.path)
    assert hint_of(refused.value) == "Upgrade: pip install --upgrade condu"


def test_a_database_without_a_revision_is_not_sound(registry: Registry) -> None:
    execute(registry, "DELETE FROM alembic_version")
    with pytest.raises(IntegrityError, match="does not record its schema"):
        Registry.open(registry.path)


def test_a_database_of_another_program_is_not_sound(registry: Registry) -> None:
    registry.paths.database.unlink()
    execute(registry, "CREATE TABLE other (x)")
    with pytest.raises(IntegrityError, match="alembic_version"):
        Registry.open(registry.path)


def test_the_scripts_run_only_through_the_registry(tmp_path: Path, config: RegistryConfig) -> None:
    from alembic import command

    with pytest.raises(RuntimeError, match="open it with condu"):
        command.upgrade(migration._config(), "head")
