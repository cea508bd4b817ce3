"""The on-disk format that every later condu must be able to read.

A change here breaks existing registries: write a migration, do not edit a value.
"""

import hashlib
import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from condu_cli.base_identity import BaseIdentity
from condu_cli.registry.manifest import (
    CodecChoice,
    Expert,
    ParameterShape,
    RegistryConfig,
    Session,
    TaskEntry,
    canonical_json,
)
from condu_cli.registry.repository import Registry

CONFIG = RegistryConfig(
    base=BaseIdentity("mini", "mini", "builtin", "quickgelu", "b" * 64, 224),
    method="full",
    codec=CodecChoice("condu", {"dtype": "float32"}),
    parameters=(ParameterShape("visual.proj", (2, 3)), ParameterShape("scale", ())),
)

MANIFEST = (
    '{"created_at":"2026-01-31T23:59:59.123456Z","entries":['
    '{"drift":0.125,"expert":{"classes":["cat","dog \\u00e9"],"prototypes":"' + "1" * 64 + '",'
    '"templates":["a photo of a {}."],"training":{"recipe":{"lr":0.0002},"seed":0}},'
    '"l1_norm":12.0,"learned_in":"' + "a" * 64 + '","mask_density":0.5,"name":"pets",'
    '"part":"' + "2" * 64 + '","rescaler":1.5},'
    '{"drift":null,"expert":{"classes":["striped"],"prototypes":"' + "3" * 64 + '",'
    '"templates":["{} texture."],"training":{}},'
    '"l1_norm":3.5,"learned_in":null,"mask_density":1.0,"name":"dtd",'
    '"part":"' + "4" * 64 + '","rescaler":1.0}],'
    '"format":1,"kind":"learn","note":{"unify_seconds":0.5},"parent":"' + "a" * 64 + '",'
    '"shared":"' + "5" * 64 + '","task":"dtd"}'
)
MANIFEST_ID = "f6c1165fa793a4a68fdcc87b7846a65bc61f6d98ab56152909cfe21e111d92b1"

TABLES = {
    "alembic_version": ["version_num"],
    "registry": [
        "id",
        "format",
        "created_at",
        "written_by",
        "base_id",
        "base_architecture",
        "base_pretrained",
        "base_activation",
        "base_weights_sha256",
        "base_image_size",
        "method",
        "codec",
        "codec_options",
        "parameters",
        "fingerprint",
        "method_options",
        "base_preparation",
    ],
    "blobs": ["sha256", "size", "kind"],
    "sessions": [
        *("id", "ordinal", "parent", "kind", "task", "created_at", "shared", "note"),
        "codec",
    ],
    "experts": ["id", "learned_in", "classes", "templates", "prototypes", "head", "training"],
    "session_tasks": [
        "session",
        "position",
        "name",
        "expert",
        "part",
        "drift",
        "record",
        "codec_options",
    ],
    "head": ["id", "session"],
    "operations": ["id", "at", "kind", "from_session", "to_session", "command"],
    "tags": ["name", "session", "created_at"],
    "packs": ["session", "reference", "patch"],
    "collected": ["session", "at"],
    "sources": ["expert", "folder"],
}

FINGERPRINTED = (
    '{"base":{"activation":"quickgelu","architecture":"mini","id":"mini","image_size":224,'
    '"pretrained":"builtin","weights_sha256":"' + "b" * 64 + '"},"codec":"condu",'
    '"codec_options":{"dtype":"float32"},"method":"full",'
    '"parameters":[["visual.proj",[2,3]],["scale",[]]]}'
)


def record(rescaler: float, mask_density: float, l1_norm: float) -> dict[str, float]:
    return {"rescaler": rescaler, "mask_density": mask_density, "l1_norm": l1_norm}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """One session with one task, all figures fixed."""
    registry = Registry.create(tmp_path / "registry", CONFIG)
    put = registry.blobs.put
    part = put({"mask": np.arange(8, dtype=np.uint8)}, metadata={"codec": "condu"}).sha256
    prototypes = put({"text": np.ones((2, 3), np.float32)}).sha256
    shared = put({"delta": np.arange(4, dtype=np.float32)}, metadata={}).sha256
    expert = Expert(("cat", "dog"), ("a photo of a {}.",), prototypes, {"seed": 0})
    entry = TaskEntry("pets", expert, part, None, record(1.0, 0.5, 6.0), None)
    with registry.lock("learn"):
        registry.commit(Session.on(None, "learn", "pets", shared, [entry]), command="learn")
    return registry


def query(registry: Registry, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(registry.paths.database)) as connection:
        return connection.execute(statement).fetchall()


def test_the_folder(registry: Registry) -> None:
    entries = {path.name for path in registry.path.iterdir()}
    own = {"README.txt", "backups", "blobs", "condu.sqlite", "reserve", "tmp"}
    assert entries - {"lock"} == own
    for path in registry.paths.blobs.rglob("*"):
        if path.is_file():
            assert path.relative_to(registry.paths.blobs) == Path(path.name[:2], path.name)


def test_the_tables_and_their_columns(registry: Registry) -> None:
    names = query(registry, "SELECT name FROM sqlite_master WHERE type = 'table'")
    tables = {str(name) for (name,) in names} - {"sqlite_sequence"}
    found = {
        table: [row[1] for row in query(registry, f"PRAGMA table_info({table})")]
        for table in tables
    }
    assert found == TABLES
    assert query(registry, "SELECT version_num FROM alembic_version") == [("0006",)]
    assert query(registry, "SELECT format FROM registry") == [(1,)]


def test_the_fingerprint_is_of_all_that_is_fixed(registry: Registry) -> None:
    fingerprint = hashlib.sha256(FINGERPRINTED.encode()).hexdigest()
    assert CONFIG.fingerprint() == fingerprint
    assert query(registry, "SELECT fingerprint FROM registry") == [(fingerprint,)]


def test_options_of_the_method_enter_the_fingerprint() -> None:
    options = {"seed": 0, "rank": 4}
    text = FINGERPRINTED.replace(
        '"method":"full",', '"method":"lora","method_options":{"rank":4,"seed":0},'
    )
    config = replace(CONFIG, method="lora", method_options=options)
    assert config.fingerprint() == hashlib.sha256(text.encode()).hexdigest()


def test_notes_beside_the_manifests(registry: Registry) -> None:
    first = registry.head()
    assert first is not None
    with registry.lock("learn"):
        second = Session.on(first.id, "learn", "pets", first.shared, first.entries)
        registry.commit(second, command="learn")
        registry.tag("best", second, "condu tag best")
        patch = registry.blobs.put({"flips": np.zeros(3, np.uint8)})
        registry.record_pack(first, second, patch)
    assert query(registry, "SELECT name, session FROM tags") == [("best", second.id)]
    assert query(registry, "SELECT * FROM packs") == [(first.id, second.id, patch.sha256)]
    assert query(registry, f"SELECT * FROM blobs WHERE sha256 = '{patch.sha256}'") == [  # noqa: S608
        (patch.sha256, patch.size, "patch")
    ]
    with registry.lock("gc"):
        registry.record_collected([first.id], "condu gc")
    assert query(registry, "SELECT session FROM collected") == [(first.id,)]
    assert query(registry, "SELECT * FROM packs") == []
    registry.remove_tag("best", "condu tag --delete best")
    lines = query(registry, "SELECT kind, from_session, to_session FROM operations ORDER BY id")
    assert lines == [
        ("init", None, None),
        ("learn", None, first.id),
        ("learn", first.id, second.id),
        ("tag", None, second.id),
        ("gc", None, None),
        ("untag", second.id, None),
    ]


def test_the_file_of_an_expert_that_waits(registry: Registry) -> None:
    waiting = registry.waiting.save(
        "pets", {"delta/scale": np.ones(2, np.float32)}, {"kind": "learn", "at": "2026"}
    )
    content = waiting.path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    assert waiting.path == registry.path / "trained" / f"pets.{sha256}.safetensors"
    length = int.from_bytes(content[:8], "little")
    assert json.loads(content[8 : 8 + length]) == {
        "__metadata__": {"condu": '{"at":"2026","kind":"learn"}'},
        "delta/scale": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    }


def test_json_in_the_database_is_canonical_text(registry: Registry) -> None:
    assert query(registry, "SELECT parameters, codec_options FROM registry") == [
        ('[["visual.proj",[2,3]],["scale",[]]]', '{"dtype":"float32"}')
    ]
    assert query(registry, "SELECT classes, templates, training FROM experts") == [
        ('["cat","dog"]', '["a photo of a {}."]', '{"seed":0}')
    ]


def test_the_bytes_of_a_blob(registry: Registry) -> None:
    ref = registry.blobs.put(
        {"mask": np.arange(8, dtype=np.uint8)}, metadata={"tasks": 1, "codec": "condu"}
    )
    content = (registry.paths.blobs / ref.sha256[:2] / ref.sha256).read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert json.loads(content[8 : 8 + length]) == {
        "__metadata__": {"condu": '{"codec":"condu","tasks":1}'},
        "mask": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]},
    }
    assert content[8 + length :] == bytes(range(8))
    assert ref.sha256 == hashlib.sha256(content).hexdigest()


def test_the_manifest_and_the_id_of_a_session() -> None:
    pets = Expert(
        classes=("cat", "dog é"),
        templates=("a photo of a {}.",),
        prototypes="1" * 64,
        training={"seed": 0, "recipe": {"lr": 2e-4}},
    )
    dtd = Expert(("striped",), ("{} texture.",), "3" * 64, {})
    session = Session(
        id=MANIFEST_ID,
        parent="a" * 64,
        kind="learn",
        task="dtd",
        created_at="2026-01-31T23:59:59.123456Z",
        shared="5" * 64,
        entries=(
            TaskEntry("pets", pets, "2" * 64, "a" * 64, record(1.5, 0.5, 12.0), 0.125),
            TaskEntry("dtd", dtd, "4" * 64, MANIFEST_ID, record(1.0, 1.0, 3.5), None),
        ),
        note={"unify_seconds": 0.5},
    )
    assert canonical_json(session.manifest()) == MANIFEST
    assert session.computed_id() == MANIFEST_ID


def test_a_head_is_in_the_manifest_and_in_the_database(registry: Registry) -> None:
    """If an expert has one; otherwise the key is absent, as in the sessions above."""
    first = registry.head()
    assert first is not None
    arrays = {"weights": np.ones((2, 3), np.float32), "bias": np.zeros(2, np.float32)}
    head = registry.blobs.put(arrays)
    old = first.entries[0]
    new = replace(old, name="cats", expert=replace(old.expert, head=head.sha256), learned_in=None)
    with registry.lock("learn"):
        session = Session.on(first.id, "learn", "cats", first.shared, [old, new])
        registry.commit(session, command="learn")
    assert [entry["expert"].get("head") for entry in session.manifest()["entries"]] == [
        None,
        head.sha256,
    ]
    assert query(registry, "SELECT head FROM experts ORDER BY id") == [(None,), (head.sha256,)]
    assert query(registry, f"SELECT kind FROM blobs WHERE sha256 = '{head.sha256}'") == [  # noqa: S608
        ("head",)
    ]


def test_a_sessions_own_codec_is_in_the_manifest_and_in_the_database(registry: Registry) -> None:
    """If a session or an entry has one; otherwise the key is absent, as in the sessions above."""
    first = registry.head()
    assert first is not None
    entry = replace(first.entries[0], codec_options={"dtype": "float16"})
    own = CodecChoice("raw", {"dtype": "float32"})
    with registry.lock("convert"):
        session = Session.on(first.id, "convert", "pets", None, [entry], codec=own)
        registry.commit(session, command="convert")
    manifest = session.manifest()
    assert manifest["codec"] == {"name": "raw", "options": {"dtype": "float32"}}
    assert manifest["entries"][0]["codec_options"] == {"dtype": "float16"}
    assert query(registry, "SELECT codec FROM sessions ORDER BY ordinal") == [
        (None,),
        ('{"name":"raw","options":{"dtype":"float32"}}',),
    ]
    assert query(registry, "SELECT codec_options FROM session_tasks ORDER BY rowid") == [
        ("{}",),
        ('{"dtype":"float16"}',),
    ]
    assert registry.head() == session


def test_an_id_can_be_computed_from_the_database_alone(registry: Registry) -> None:
    """Another program can check a session with these rows and sha256."""
    (row,) = query(
        registry, "SELECT id, parent, kind, task, created_at, shared, note FROM sessions"
    )
    session_id, parent, kind, task, created_at, shared, note = row
    (entry,) = query(
        registry,
        "SELECT name, part, record, drift, learned_in, classes, "
        "templates, prototypes, training FROM session_tasks JOIN experts ON experts.id = expert",
    )
    manifest = {
        "format": 1,
        "parent": parent,
        "kind": kind,
        "task": task,
        "created_at": created_at,
        "shared": shared,
        "note": json.loads(str(note)),
        "entries": [
            {
                "name": entry[0],
                "part": entry[1],
                **json.loads(str(entry[2])),
                "drift": entry[3],
                "learned_in": None if entry[4] == session_id else entry[4],
                "expert": {
                    "classes": json.loads(str(entry[5])),
                    "templates": json.loads(str(entry[6])),
                    "prototypes": entry[7],
                    "training": json.loads(str(entry[8])),
                },
            }
        ],
    }
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == session_id
