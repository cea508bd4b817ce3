import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_sessions import add_task, session_of

from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import ConduError, DataError, IntegrityError, RegistryTooNewError, UsageError
from condu_cli.registry.copies import (
    archive,
    archive_database,
    archive_format,
    archive_values,
    snapshot,
)
from condu_cli.registry.copies.archive import without_folders, write_archive
from condu_cli.registry.copies.archive_format import ArchiveReader, header, is_archive
from condu_cli.registry.copies.archive_import import read_archive
from condu_cli.registry.database.tables import Base
from condu_cli.registry.manifest import Expert, RegistryConfig, Session, TaskEntry
from condu_cli.registry.repository import Registry

Learn = Callable[[str], Session]
Members = dict[str, bytes]


def export(registry: Registry, path: Path) -> Path:
    write_archive(registry, path, overwrite=False)
    return path


@pytest.fixture
def exported(registry: Registry, learn: Learn, tmp_path: Path) -> Path:
    learn("pets")
    registry.tag("good", learn("cars"), "tag good")
    return export(registry, tmp_path / "registry.condu")


@pytest.fixture(scope="module")
def sound_once(tmp_path_factory: pytest.TempPathFactory, config: RegistryConfig) -> Path:
    registry = Registry.create(tmp_path_factory.mktemp("sound") / "registry", config)
    add_task(registry, "pets")
    registry.tag("good", add_task(registry, "cars"), "tag good")
    return export(registry, registry.path.with_name("registry.condu"))


@pytest.fixture
def sound(sound_once: Path, tmp_path: Path) -> Path:
    """What `exported` is, without the registry that it was made from."""
    return shutil.copy(sound_once, tmp_path / sound_once.name)


def members_of(path: Path) -> Members:
    with tarfile.open(path) as tar:
        found = {}
        for info in tar:
            content = tar.extractfile(info)
            assert content is not None
            found[info.name] = content.read()
        return found


def write_members(path: Path, members: Members) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members.items():
            tar.addfile(plain(name, content), io.BytesIO(content))


def plain(name: str, content: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info


# Writing -----------------------------------------------------------------------------------


def test_there_and_back(registry: Registry, exported: Path, tmp_path: Path) -> None:
    summary = read_archive(exported, tmp_path / "new" / "registry")
    copy = Registry.open(tmp_path / "new" / "registry")
    assert copy.history() == registry.history()
    assert copy.operations() == registry.operations()
    assert copy.config == registry.config
    assert copy.created_at == registry.created_at
    assert {ref.sha256 for ref in copy.blobs.all()} == set(registry.history().needed_blobs())
    for ref in copy.blobs.all():
        copy.blobs.verify(ref.sha256)
    assert (summary.sessions, summary.tasks) == (2, ("pets", "cars"))
    with closing(sqlite3.connect(copy.paths.database)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with copy.lock("learn"):
        copy.commit(session_of(copy, "more", copy.head(), 9), command="learn")


def test_an_empty_registry(registry: Registry, tmp_path: Path) -> None:
    read_archive(export(registry, tmp_path / "a"), tmp_path / "new")
    assert Registry.open(tmp_path / "new").head() is None


def test_the_members_and_their_order(registry: Registry, exported: Path) -> None:
    with tarfile.open(exported) as tar:
        infos = tar.getmembers()
    blobs = [f"blobs/{sha[:2]}/{sha}" for sha in sorted(registry.history().needed_blobs())]
    assert [info.name for info in infos] == ["condu-registry.json", "condu.sqlite", *blobs]
    for info in infos:
        assert (info.mtime, info.uid, info.gid, info.uname, info.gname) == (0, 0, 0, "", "")
        assert (info.mode, info.type, info.pax_headers) == (0o644, tarfile.REGTYPE, {})
    manifest = json.loads(members_of(exported)["condu-registry.json"])
    assert manifest.keys() == {
        "format", "condu", "schema", "fingerprint", "base", "head", "blobs",
    }  # fmt: skip
    assert manifest["blobs"] == len(blobs)
    assert exported.stat().st_size % tarfile.RECORDSIZE == 0


@pytest.mark.skipif(shutil.which("tar") is None, reason="there is no tar")
def test_other_programs_read_it(sound: Path) -> None:
    listing = subprocess.run(["tar", "tf", str(sound)], capture_output=True, text=True, check=True)
    assert listing.stdout.splitlines() == list(members_of(sound))


def test_the_same_registry_gives_the_same_bytes(
    registry: Registry, exported: Path, tmp_path: Path
) -> None:
    wanted = exported.read_bytes()
    assert export(registry, tmp_path / "again").read_bytes() == wanted
    read_archive(exported, tmp_path / "copy")
    assert export(Registry.open(tmp_path / "copy"), tmp_path / "third").read_bytes() == wanted
    script = (
        "import sys; from pathlib import Path\n"
        "from condu_cli.registry.copies.archive import write_archive\n"
        "from condu_cli.registry.repository import Registry\n"
        "write_archive(Registry.open(Path(sys.argv[1])), Path(sys.argv[2]), overwrite=False)\n"
    )
    other = tmp_path / "other"
    subprocess.run([sys.executable, "-c", script, str(registry.path), str(other)], check=True)
    assert other.read_bytes() == wanted


def test_nothing_local_is_in_it(
    tmp_path: Path, config: RegistryConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home-of-alice"
    weights = f"{home}/weights/model.safetensors"
    base = replace(config.base, id=f"ViT-B-16:{weights}", pretrained=weights)
    registry = Registry.create(home / "registry", replace(config, base=base))
    with registry.lock("learn"):
        session = registry.commit(
            session_of(registry, "pets", None, 1),
            command=f"condu learn --data {home}/pictures",
            folder=f"{home}/pictures",
        )
    assert registry.folder_of(session.entries[0]) == f"{home}/pictures"
    summary = write_archive(registry, tmp_path / "a", overwrite=False)
    content = (tmp_path / "a").read_bytes()
    for secret in ("alice", str(tmp_path), "pictures", str(Path.home()) + "/"):
        assert secret.encode() not in content
    assert summary.base_id == "ViT-B-16:model.safetensors"
    assert summary.warnings == ()
    read_archive(tmp_path / "a", tmp_path / "new", base="ViT-B-16:/mnt/w.safetensors")
    copy = Registry.open(tmp_path / "new")
    assert copy.config.base.id == "ViT-B-16:/mnt/w.safetensors"
    assert copy.config.base.pretrained == "/mnt/w.safetensors"
    assert copy.config.base.weights_sha256 == base.weights_sha256
    assert copy.sessions() == registry.sessions()
    assert copy.folder_of(session.entries[0]) is None
    assert [o.command for o in copy.operations()] == ["learn", "init"]


def test_a_record_that_names_a_folder_is_warned_about(registry: Registry, tmp_path: Path) -> None:
    session = session_of(registry, "pets", None, 1, data="/home/alice/pets")
    with registry.lock("learn"):
        registry.commit(session, command="learn")
    (warning,) = write_archive(registry, tmp_path / "a", overwrite=False).warnings
    assert "pets" in warning


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("mini", "mini"),
        ("ViT-B-16:openai", "ViT-B-16:openai"),
        ("hf-hub:timm/ViT", "hf-hub:timm/ViT"),
        ("hf-hub:timm/ViT:/a/b.pt", "hf-hub:timm/ViT:b.pt"),
        ("ViT:/a/b.pt", "ViT:b.pt"),
        ("ViT:C:\\a\\b.pt", "ViT:b.pt"),
    ],
)
def test_what_is_left_of_a_base_models_name(config: RegistryConfig, name: str, left: str) -> None:
    named = replace(config, base=replace(config.base, id=name))
    assert without_folders(named).base.id == left


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9"), "\x1b[2J", "a\u2028b"])
def test_what_the_importer_would_refuse_is_not_exported(
    registry: Registry, tmp_path: Path, name: str
) -> None:
    session = session_of(registry, "pets", None, 0, classes=("dog", name))
    with registry.lock("learn"):
        registry.commit(session, command="learn pets")
    with pytest.raises(DataError, match=r"task pets: the class '.*' has the ") as caught:
        export(registry, tmp_path / "archive")
    assert "condu backup DIR" in hint_of(caught.value)
    assert list(tmp_path.glob("*archive*")) == []


def test_the_texts_of_an_expert_are_checked_once_however_many_sessions_hold_it(
    config: RegistryConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    monkeypatch.setattr(archive_values, "complaint", lambda what, _: checked.append(what))
    for count in (10, 100):
        entries: list[TaskEntry] = []
        sessions: list[Session] = []
        for number in range(count):
            expert = Expert(("one", "two"), ("a {}.",), prototypes="0" * 64)
            entries.append(TaskEntry(f"task{number}", expert, "1" * 64, None, {}, None))
            sessions.append(Session.on(None, "learn", f"task{number}", None, entries))
        checked.clear()
        history = SimpleNamespace(tags={}, sessions=sessions)
        archive_values.check_values(config, "today", [], history)  # type: ignore[arg-type]
        assert sum("the class" in what for what in checked) == 2 * count


def test_every_table_is_known_to_travel_or_to_stay() -> None:
    """Adding a table requires a decision whether it may leave the machine."""
    assert set(Base.metadata.tables) - archive_database.LOCAL_TABLES == {
        "registry", "blobs", "sessions", "experts", "session_tasks", "head", "operations",
        "tags", "packs", "collected",
    }  # fmt: skip


def test_places_for_an_archive(registry: Registry, exported: Path, tmp_path: Path) -> None:
    before = exported.read_bytes()
    for place in (exported, tmp_path, registry.path / "a"):
        with pytest.raises(UsageError):
            write_archive(registry, place, overwrite=False)
    with pytest.raises(UsageError, match="already exists") as refused:
        write_archive(registry, exported, overwrite=False)
    assert "--force" in hint_of(refused.value)
    with pytest.raises(UsageError):
        write_archive(registry, registry.paths.database, overwrite=True)
    with pytest.raises(UsageError, match="no such folder") as refused:
        write_archive(registry, tmp_path / "no where" / "a", overwrite=True)
    assert hint_of(refused.value) == f"mkdir -p '{tmp_path}/no where'"
    assert not (tmp_path / "no where").exists()
    assert exported.read_bytes() == before
    write_archive(registry, exported, overwrite=True)
    assert exported.read_bytes() == before


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX")
def test_its_mode_is_that_of_the_umask(registry: Registry, tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        export(registry, tmp_path / "a")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_corrupt_blob_leaves_the_older_archive(registry: Registry, exported: Path) -> None:
    before = exported.read_bytes()
    sha256 = max(registry.history().needed_blobs())
    path = registry.blobs.path(sha256)
    path.write_bytes(flipped(path.read_bytes(), -1))
    with pytest.raises(IntegrityError, match=sha256):
        write_archive(registry, exported, overwrite=True)
    path.unlink()
    with pytest.raises(IntegrityError, match=sha256):
        write_archive(registry, exported, overwrite=True)
    assert exported.read_bytes() == before
    assert {path.name for path in exported.parent.iterdir()} == {"registry", exported.name}


def test_a_full_disk(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConduError, match="No space left"):
        export(registry, tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["registry"]


@pytest.mark.parametrize("existing", [True, False])
def test_a_failure_says_of_an_existing_file_only_that_it_is_unchanged(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "a"
    if existing:
        path.write_text("before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConduError, match="No space left") as failed:
        write_archive(registry, path, overwrite=True)
    said = "the existing file was not changed" if existing else "nothing was exported"
    assert failed.value.facts["consequence"] == said
    assert path.exists() == existing


def test_a_blob_that_goes_makes_it_start_over(
    registry: Registry, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = archive.verified_chunks, []

    def vanish_once(path: Path, sha256: str) -> Any:
        calls.append(sha256)
        if len(calls) == 3:
            raise snapshot.VanishedError(sha256)
        return original(path, sha256)

    monkeypatch.setattr(archive, "verified_chunks", vanish_once)
    assert export(registry, tmp_path / "b").read_bytes() == exported.read_bytes()


# Reading untrusted archives ---------------------------------------------------------


def blob_members(members: Members) -> list[str]:
    return [name for name in members if name.startswith("blobs/")]


def with_manifest(members: Members, **values: object) -> Members:
    manifest = json.loads(members["condu-registry.json"]) | values
    return members | {"condu-registry.json": json.dumps(manifest).encode()}


def with_sql(members: Members, *statements: str, version: str | None = None) -> Members:
    """Run SQL on the archive's database, with everything allowed."""
    path = Path(os.environ["PYTEST_DATABASE"])
    path.write_bytes(members["condu.sqlite"])
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    changed = path.read_bytes()
    path.unlink()
    return members | {"condu.sqlite": changed}


def without(members: Members, name: str) -> Members:
    return {key: value for key, value in members.items() if key != name}


def renamed(members: Members, old: str, new: str) -> Members:
    return {new if key == old else key: value for key, value in members.items()}


def flipped(content: bytes, place: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 0xFF
    return bytes(changed)


def first_blob(members: Members) -> str:
    return blob_members(members)[0]


MEMBERS: dict[str, Callable[[Members], Members]] = {
    "empty": lambda m: {},
    "no manifest": lambda m: without(m, "condu-registry.json"),
    "no database": lambda m: without(m, "condu.sqlite"),
    "a blob less": lambda m: without(m, first_blob(m)),
    "a blob less, and counted": lambda m: with_manifest(
        without(m, first_blob(m)), blobs=len(blob_members(m)) - 1
    ),
    "an unneeded blob": lambda m: with_manifest(
        m | {"blobs/e3/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855": b""},
        blobs=len(blob_members(m)) + 1,
    ),
    "a sound blob for another": lambda m: (
        without(m, first_blob(m)) | {archive_format.blob_name(sha256(b"").hexdigest()): b""}
    ),
    "a blob more than counted": lambda m: with_manifest(m, blobs=1),
    "another blob": lambda m: m | {first_blob(m): b"other"},
    "a blob in another folder": lambda m: renamed(m, first_blob(m), "blobs/zz" + first_blob(m)[8:]),
    "dots": lambda m: m | {"../escaped": b"x"},
    "dots in a blob": lambda m: renamed(m, first_blob(m), "blobs/../" + first_blob(m)[9:]),
    "an absolute path": lambda m: m | {"/tmp/escaped-from-condu": b"x"},  # noqa: S108
    "a drive": lambda m: m | {"C:\\escaped": b"x"},
    "an unknown name": lambda m: m | {"README.txt": b"x"},
    "a lock": lambda m: m | {"lock": b""},
    "a log": lambda m: m | {"condu.sqlite-wal": b"x"},
    "a name with escapes": lambda m: m | {"\x1b[2J": b"x"},
    "a long name": lambda m: m | {"a" * 5000: b"x"},
    "a dot before the name": lambda m: renamed(m, "condu.sqlite", "./condu.sqlite"),
    "a newline behind a name": lambda m: renamed(m, first_blob(m), first_blob(m) + "\n"),
    "a blob in capitals": lambda m: renamed(m, first_blob(m), first_blob(m).upper()),
    "manifest: no JSON": lambda m: m | {"condu-registry.json": b"{"},
    "manifest: deep": lambda m: m | {"condu-registry.json": b"[" * 500_000},
    "manifest: long": lambda m: m | {"condu-registry.json": b" " * 2_000_000},
    "manifest: a list": lambda m: m | {"condu-registry.json": b"[]"},
    "manifest: another HEAD": lambda m: with_manifest(m, head="0" * 64),
    "manifest: no HEAD": lambda m: with_manifest(m, head=None),
    "manifest: another fingerprint": lambda m: with_manifest(m, fingerprint="0" * 64),
    "manifest: another base": lambda m: with_manifest(m, base={"name": "x"}),
    "manifest: too much": lambda m: with_manifest(m, more=1),
    "manifest: counts text": lambda m: with_manifest(m, blobs="12"),
    "manifest: counts true": lambda m: with_manifest(m, blobs=True),
    "manifest: format 0": lambda m: with_manifest(m, format=0),
    "manifest: escapes": lambda m: with_manifest(m, condu="\x1b[2J"),
    "manifest: older schema": lambda m: with_manifest(m, schema="0001"),
    "database: none": lambda m: m | {"condu.sqlite": b""},
    "database: text": lambda m: m | {"condu.sqlite": b"no database" * 1000},
    "database: cut": lambda m: m | {"condu.sqlite": m["condu.sqlite"][:8192]},
    "database: a byte of the header": lambda m: (
        m | {"condu.sqlite": flipped(m["condu.sqlite"], 16)}
    ),
    "database: a byte of a page": lambda m: (
        m | {"condu.sqlite": flipped(m["condu.sqlite"], 2 * 4096 + 3)}
    ),
}

STATEMENTS: dict[str, tuple[str, ...]] = {
    "trigger": ("CREATE TRIGGER t AFTER UPDATE ON head BEGIN DELETE FROM sessions; END",),
    "view": ("CREATE VIEW v AS SELECT 1",),
    "endless view": (
        "DROP TABLE alembic_version",
        "CREATE VIEW alembic_version AS WITH RECURSIVE r(version_num) AS "
        "(SELECT 1 UNION ALL SELECT version_num + 1 FROM r) SELECT * FROM r",
    ),
    "virtual table": ("CREATE VIRTUAL TABLE f USING fts5(a)",),
    "table": ("CREATE TABLE more (a)",),
    "index": ("CREATE INDEX more ON sessions (kind)",),
    "no index": ("DROP INDEX ix_sessions_parent",),
    "no table": ("DROP TABLE sources",),
    "generated column": ("ALTER TABLE tags ADD COLUMN g GENERATED ALWAYS AS (name) VIRTUAL",),
    "column": ("ALTER TABLE tags ADD COLUMN more TEXT",),
    "statistics": ("ANALYZE",),
    "schema written by hand": (
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = replace(sql, 'TEXT', 'BLOB') WHERE name = 'tags'",
    ),
    "a root page twice": (
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master "
        "WHERE name = 'tags') WHERE name = 'collected'",
    ),
    "another revision": ("UPDATE alembic_version SET version_num = '0001'",),
    "no revision": ("DELETE FROM alembic_version",),
    "pictures of another machine": ("INSERT INTO sources VALUES (1, '/etc')",),
    "orphan": ("INSERT INTO tags VALUES ('x', 'absent', 'now')",),
    "altered session": ("UPDATE sessions SET task = 'other'",),
    "altered note": ('UPDATE sessions SET note = \'{"by":"me"}\'',),
    "deep note": ("UPDATE sessions SET note = printf('%.*c', 300000, '[')",),
    "note of bytes": ("UPDATE sessions SET note = x'ff00ff'",),
    "removed sessions": ("DELETE FROM sessions",),
    "HEAD nowhere": ("UPDATE head SET session = 'absent'",),
    "no HEAD": ("DELETE FROM head",),
    "no registry": ("DELETE FROM registry",),
    "altered registry": ("UPDATE registry SET method = 'lora'",),
    "registry of bytes": ("UPDATE registry SET base_id = x'ff'",),
    "registry without a time": ("UPDATE registry SET created_at = x'ff'",),
    "terminal escapes": ("UPDATE operations SET command = char(27) || '[2J'",),
    "invalid tag": ("UPDATE tags SET name = '../../x'",),
    "tag with escapes": ("UPDATE tags SET name = char(27)",),
    "collected HEAD": ("INSERT INTO collected SELECT session, 'now' FROM head",),
    "a circle of packs": (
        "INSERT INTO packs SELECT a.id, b.id, NULL FROM sessions a, sessions b WHERE a.id <> b.id",
        "UPDATE head SET session = NULL",
    ),
    "no more operations": ("UPDATE sqlite_sequence SET seq = 9223372036854775807",),
    "no more sessions": ("UPDATE sessions SET ordinal = 9223372036854775807 WHERE ordinal = 2",),
}


def raw(*parts: bytes) -> bytes:
    return b"".join(parts) + bytes(1024)


def member(name: str, content: bytes = b"", **fields: Any) -> bytes:
    info = plain(name, content)
    for field, value in fields.items():
        setattr(info, field, value)
    head = info.tobuf(tarfile.GNU_FORMAT)
    return head + content + bytes(-len(content) % 512)


def pax(**records: str) -> bytes:
    content = b""
    for key, value in records.items():
        body = f" {key.replace('__', '.')}={value}\n"
        length = len(body) + 2
        content += f"{length}{body}".encode()
    return member("././@PaxHeader", content, type=tarfile.XHDTYPE)


def used_size(whole: bytes) -> int:
    used = len(whole.rstrip(b"\0"))
    return used + -used % 512


NAME = "condu.sqlite"
RAW: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda whole: b"",
    "zeros": lambda whole: bytes(10240),
    "noise": lambda whole: b"\x01\xfe" * 5120,
    "cut in a member": lambda whole: whole[:5000],
    "cut in a header": lambda whole: whole[:100],
    "cut before the end": lambda whole: whole.rstrip(b"\0") + bytes(1),
    "one block at the end": lambda whole: whole[: used_size(whole) + 512],
    "no block at the end": lambda whole: whole[: used_size(whole)],
    "garbage at the end": lambda whole: whole + b"garbage",
    "a second archive at the end": lambda whole: whole + whole,
    "zeros for ever at the end": lambda whole: whole + bytes(3 << 20),
    "a header that does not add up": lambda whole: flipped(whole, 5),
    "twice the same": lambda whole: raw(member(NAME, b"x"), member(NAME, b"x")),
    "a folder": lambda whole: raw(member("blobs", type=tarfile.DIRTYPE)),
    "a folder in the old way": lambda whole: raw(member("blobs/", type=tarfile.AREGTYPE)),
    "a symbolic link": lambda whole: raw(
        member(NAME, type=tarfile.SYMTYPE, linkname="/etc/passwd")
    ),
    "a hard link": lambda whole: raw(member(NAME, type=tarfile.LNKTYPE, linkname="/etc/passwd")),
    "a device": lambda whole: raw(member(NAME, type=tarfile.CHRTYPE)),
    "a block device": lambda whole: raw(member(NAME, type=tarfile.BLKTYPE)),
    "a pipe": lambda whole: raw(member(NAME, type=tarfile.FIFOTYPE)),
    "a contiguous file": lambda whole: raw(member(NAME, type=tarfile.CONTTYPE)),
    "an unknown type": lambda whole: raw(member(NAME, type=b"Q")),
    "a sparse file": lambda whole: raw(member(NAME, type=tarfile.GNUTYPE_SPARSE)),
    "a long name": lambda whole: raw(
        member("././@LongLink", b"../../x\0", type=tarfile.GNUTYPE_LONGNAME), member(NAME)
    ),
    "a global header": lambda whole: raw(member("pax", b"", type=tarfile.XGLTYPE), member(NAME)),
    "a path in an extended header": lambda whole: raw(pax(path="../../x"), member(NAME)),
    "a link in an extended header": lambda whole: raw(pax(linkpath="/etc"), member(NAME)),
    "a sparse extended header": lambda whole: raw(pax(GNU__sparse__major="1"), member(NAME)),
    "an endless extended header": lambda whole: raw(
        member("x", bytes(8192), type=tarfile.XHDTYPE), member(NAME)
    ),
    "a broken extended header": lambda whole: raw(
        member("x", b"99 a=b\n", type=tarfile.XHDTYPE), member(NAME)
    ),
    "two extended headers": lambda whole: raw(pax(mtime="123"), pax(mtime="123"), member(NAME)),
    "an extended header alone": lambda whole: raw(pax(mtime="123")),
    "more than there is": lambda whole: raw(header(NAME, 1 << 40)),
    "more than there is, in words": lambda whole: raw(pax(size="9999999999"), member(NAME)),
    "more than there can be": lambda whole: raw(member(NAME, size=(1 << 62))),
    "less than nothing": lambda whole: raw(member(NAME, size=-512)),
    "padding with something in it": lambda whole: raw(
        header("condu-registry.json", 2), b"{}" + b"x" * 510
    ),
    "compressed": lambda whole: __import__("gzip").compress(whole),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where a hostile archive is imported; nothing may appear beside it."""
    monkeypatch.setenv("PYTEST_DATABASE", str(tmp_path / "work.sqlite"))
    return tmp_path / "imports" / "deeper" / "registry"


def assert_refused(path: Path, place: Path) -> None:
    before = {p: p.lstat().st_mtime_ns for p in path.parent.rglob("*")}
    begun = time.monotonic()
    with pytest.raises(IntegrityError, match=path.name) as refused:
        read_archive(path, place)
    assert time.monotonic() - begun < 5  # one second on an idle machine
    assert "\x1b" not in refused.value.message
    assert "\n" not in refused.value.message
    assert {p: p.lstat().st_mtime_ns for p in path.parent.rglob("*")} == before
    assert not place.parent.parent.exists()


@pytest.mark.parametrize("fault", MEMBERS)
def test_members_that_are_wrong(sound: Path, place: Path, fault: str) -> None:
    write_members(sound, MEMBERS[fault](members_of(sound)))
    assert_refused(sound, place)


@pytest.mark.parametrize("fault", STATEMENTS)
def test_databases_that_are_wrong(sound: Path, place: Path, fault: str) -> None:
    write_members(sound, with_sql(members_of(sound), *STATEMENTS[fault]))
    assert_refused(sound, place)


@pytest.mark.parametrize("fault", RAW)
def test_files_that_are_wrong(sound: Path, place: Path, fault: str) -> None:
    sound.write_bytes(RAW[fault](sound.read_bytes()))
    assert_refused(sound, place)


def test_a_base_in_a_folder_is_not_taken_over(
    registry: Registry, config: RegistryConfig, exported: Path, place: Path
) -> None:
    there = replace(config, base=replace(config.base, id="ViT:/home/bob/.cache/x.pt"))
    members = with_sql(
        members_of(exported),
        f"UPDATE registry SET base_id = '{there.base.id}'",  # noqa: S608
        f"UPDATE registry SET fingerprint = '{there.fingerprint()}'",  # noqa: S608
    )
    base = {"name": there.base.id, "weights_sha256": there.base.weights_sha256}
    write_members(exported, with_manifest(members, fingerprint=there.fingerprint(), base=base))
    assert_refused(exported, place)


def test_every_flipped_bit_is_found(sound: Path, place: Path) -> None:
    """Flip 25 bits spread over the file; those in unused header fields may pass."""
    whole = sound.read_bytes()
    used = len(whole.rstrip(b"\0"))
    for position in range(0, used, used // 25):
        sound.write_bytes(flipped(whole, position))
        try:
            read_archive(sound, place)
        except ConduError:
            assert not place.exists()
        else:
            copy = Registry.open(place)
            copy.history()
            shutil.rmtree(place)


def test_an_archive_is_known_by_its_content(sound: Path, place: Path) -> None:
    """Whatever its name, it is not a checkpoint."""
    named = sound.rename(sound.with_suffix(".safetensors"))
    assert is_archive(named)
    read_archive(named, place)
    named.write_bytes(named.read_bytes()[:600])
    assert is_archive(named)
    with pytest.raises(IntegrityError):
        read_archive(named, place.with_name("other"))


def test_in_any_order_and_with_other_times(registry: Registry, exported: Path, place: Path) -> None:
    members = members_of(exported)
    with tarfile.open(exported, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in reversed(members):
            info = plain(name, members[name])
            info.mtime, info.uid, info.uname, info.mode = 1234567890.5, 1000, "me", 0o777
            tar.addfile(info, io.BytesIO(members[name]))
    read_archive(exported, place)
    assert Registry.open(place).history() == registry.history()


def test_a_newer_archive(sound: Path, place: Path) -> None:
    members = members_of(sound)
    for values in ({"format": 2}, {"schema": "9999"}, {"format": 2, "more": 1}):
        write_members(sound, with_manifest(members, condu="9.9", **values))
        with pytest.raises(RegistryTooNewError, match=r"9\.9") as refused:
            read_archive(sound, place)
        assert "pip install" in hint_of(refused.value)
        assert not place.parent.parent.exists()


def test_places_for_a_new_registry(registry: Registry, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis").write_text("mine")
    for place in (registry.path, exported, tmp_path / "full"):
        with pytest.raises(UsageError, match="not an empty folder"):
            read_archive(exported, place)
    (tmp_path / "empty" / "lost+found").mkdir(parents=True)
    read_archive(exported, tmp_path / "empty")
    assert Registry.open(tmp_path / "empty").history() == registry.history()


def test_files_that_are_not_archives(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        read_archive(tmp_path / "nowhere", tmp_path / "new")
    with pytest.raises(UsageError):
        read_archive(tmp_path, tmp_path / "new")
    if os.path.exists("/dev/zero"):
        with pytest.raises(UsageError, match="plain file"):
            read_archive(Path("/dev/zero"), tmp_path / "new")


def test_a_full_disk_is_not_the_archives_fault(
    sound: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConduError, match="No space left") as refused:
        read_archive(sound, place)
    assert type(refused.value) is ConduError
    assert not place.parent.parent.exists()


def test_members_of_more_than_8_gib() -> None:
    size = 9 << 30
    reader = ArchiveReader(io.BytesIO(header(NAME, size)), size + 10240)
    found = next(reader.members())
    assert (found.name, found.size) == (NAME, size)


def test_a_reader_holds_a_chunk_at_most(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = registry.blobs.put({"w": np.zeros(5 << 20, np.uint8)}).sha256
    path = registry.blobs.path(sha256)
    name = archive_format.blob_name(sha256)
    content = header(name, path.stat().st_size) + path.read_bytes()
    reader = ArchiveReader(io.BytesIO(content + bytes(2048)), len(content) + 2048)
    found = next(reader.members())
    chunks = reader.chunks(found)
    assert max(len(chunk) for chunk in chunks) == archive_format.CHUNK
