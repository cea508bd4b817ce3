"""Registries written by older versions open, decode to the same, and can be used."""

import hashlib
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from condu_cli.cli.hints.making import hint_of
from condu_cli.core.routing.prototypes import Prototypes
from condu_cli.errors import ConduError, IntegrityError, RegistryTooNewError
from condu_cli.registry.copies.archive_import import read_archive
from condu_cli.registry.database import migration
from condu_cli.registry.manifest import Session
from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import Aim
from condu_cli.workflows.sessions.coding import codec_for
from condu_cli.workflows.sessions.collecting import collect
from condu_cli.workflows.sessions.committing import Commit, commit_expert, resume_expert
from condu_cli.workflows.sessions.moving_head import roll_back
from condu_cli.workflows.sessions.states import open_state
from condu_cli.workflows.sessions.trained_experts import TrainedExpert
from condu_cli.workflows.sessions.verification import verify

FORMATS = Path(__file__).parent / "formats"
NAMES = (
    "0001-first",
    "0001-row",
    "0001-int8",
    "0002-history",
    "0003-bfloat16",
    "0004-records",
    "0005-heads",
)
HEADS = {name: 1 if name == "0001-int8" else 2 for name in NAMES}
RESCALERS = {
    "0001-first": "global",
    "0001-row": "row",
    "0001-int8": "tensor",
    "0002-history": "row",
    "0003-bfloat16": "tensor",
    "0004-records": "row",
    "0005-heads": "row",
}
STEPS = {
    "0001": ("create_table", "create_index", "add_column", "get_bind"),
    "0002": ("create_table", "create_index", "add_column", "get_bind"),
    "0003": ("create_table", "create_index", "add_column", "get_bind"),
    "0004": ("create_table", "create_index", "add_column", "get_bind"),
    "0005": ("add_column",),
}
"""What migrations do from a schema to the current one."""
TIMES = {
    "0001": {"create_table": 6, "create_index": 8, "add_column": 4, "get_bind": 4},
    "0002": {"create_table": 2, "create_index": 5, "add_column": 3, "get_bind": 2},
    "0003": {"create_table": 2, "create_index": 5, "add_column": 2, "get_bind": 2},
    "0004": {"create_index": 3},
    "0005": {},
}
"""How often, if more than once: the last time is the one to fail."""
TASKS = ("digits", "shapes", "birds")

Deltas = dict[str, np.ndarray]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(name: str, tmp_path: Path) -> Path:
    """A copy like a clone of the repository: without empty folders."""
    copy = Path(shutil.copytree(FORMATS / name, tmp_path / "registry"))
    for folder in ("tmp", "backups"):
        shutil.rmtree(copy / folder, ignore_errors=True)
    return copy


@pytest.fixture
def registry(path: Path) -> Registry:
    return Registry.open(path)


@pytest.fixture
def expected(name: str) -> Deltas:
    with np.load(FORMATS / f"{name}.npz") as arrays:
        return dict(arrays)


def decoded(registry: Registry) -> Deltas:
    """What every expert of the first three sessions decodes to, named as in the .npz."""
    codec = codec_for(registry.config)
    found = {}
    for number, session in enumerate(oldest_first(registry)[:3]):
        state = open_state(registry, session)
        for entry, part in zip(session.entries, state.parts, strict=True):
            for parameter, delta in codec.decode(state.shared, part):
                found[f"{number}/{entry.name}/{parameter}"] = np.array(delta)
    return found


def oldest_first(registry: Registry) -> list[Session]:
    return registry.sessions()[::-1]


def assert_same(found: Deltas, expected: Deltas) -> None:
    assert found.keys() == expected.keys()
    for key, delta in expected.items():
        assert found[key].dtype == np.float32
        assert found[key].tobytes() == delta.tobytes(), key


def content(path: Path) -> list[str]:
    """The tables of a database as SQL, one row per line."""
    uri = (path / "condu.sqlite").as_uri() + "?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        return list(connection.iterdump())


def files(path: Path) -> dict[Path, str]:
    found = {p for folder in ("blobs", "trained") for p in (path / folder).rglob("*")}
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in found if p.is_file()}


def learn(registry: Registry, task: str, seed: int = 7) -> Commit:
    random = np.random.default_rng(seed)
    delta = {
        p.name: random.normal(scale=1e-3, size=p.shape).astype(np.float32)
        for p in registry.config.parameters
    }
    text = np.eye(2, 8, dtype=np.float32)
    head = registry.head()
    trained = TrainedExpert(
        task=task,
        kind="learn",
        delta=delta,
        prototypes=Prototypes(text, text, np.ones((2, 4), np.float32), np.array([3, 4])),
        classes=("one", "two"),
        templates=("a photo of a {}.",),
        training={"run": f"{seed:016x}"},
    )
    parent = None if head is None else head.id
    return commit_expert(registry, trained, parent=parent, command=f"condu learn --task {task}")


def test_every_format_that_was_kept_is_tested() -> None:
    assert {folder.name for folder in FORMATS.iterdir() if folder.is_dir()} == set(NAMES)
    assert {file.stem for file in FORMATS.glob("*.npz")} == set(NAMES)


def test_it_opens_with_a_backup_of_the_database_and_one_line(name: str, path: Path) -> None:
    before = content(path)
    told: list[str] = []
    Registry.open(path, notify=told.append)
    Registry.open(path, notify=told.append)
    (backup,) = (path / "backups").iterdir()
    with closing(sqlite3.connect(backup)) as connection:
        assert list(connection.iterdump()) == before
    (line,) = told
    assert "\n" not in line
    assert f"from schema {name[:4]} to {migration.SCHEMA_REVISION}" in line
    assert str(backup) in line


def test_opening_touches_no_blob(path: Path) -> None:
    before = files(path)
    registry = Registry.open(path)
    assert files(path) == before
    assert {ref.sha256 for ref in registry.blobs.all()} == set(registry.history().needed_blobs())


def test_every_session_is_read_and_head_is_where_it_was(name: str, registry: Registry) -> None:
    sessions = oldest_first(registry)
    assert [session.task for session in sessions] == list(TASKS)
    assert [[e.name for e in session.entries] for session in sessions] == [
        list(TASKS[:1]),
        list(TASKS[:2]),
        list(TASKS),
    ]
    assert registry.head() == sessions[HEADS[name]]
    has_history = name >= "0002"
    assert registry.tags() == ({"two": sessions[1].id} if has_history else {})
    assert set(registry.packs()) == ({s.id for s in sessions[:2]} if has_history else set())
    assert registry.operations()[-1].kind == "init"


def test_no_session_has_another_id_or_codec_by_now(name: str, registry: Registry) -> None:
    of_a_record = "json_extract(record, '$.{}')" if name >= "0004" else "{}"
    columns = ", ".join(of_a_record.format(c) for c in ("rescaler", "mask_density", "l1_norm"))
    with closing(sqlite3.connect(FORMATS / name / "condu.sqlite")) as connection:
        before = connection.execute("SELECT id FROM sessions ORDER BY ordinal").fetchall()
        figures = connection.execute(
            f"SELECT {columns} FROM session_tasks "  # noqa: S608 - ours
            "JOIN sessions ON sessions.id = session ORDER BY ordinal, position"
        ).fetchall()
    sessions = oldest_first(registry)
    assert [(session.computed_id(),) for session in sessions] == before
    assert {session.codec for session in sessions} == {None}
    assert [tuple(entry.record.values()) for s in sessions for entry in s.entries] == [
        (l1_norm, mask_density, rescaler) for rescaler, mask_density, l1_norm in figures
    ]


def test_an_option_added_later_means_what_the_codec_did_before(
    name: str, registry: Registry
) -> None:
    """And never the current default for new registries."""
    assert registry.config.codec.options["rescaler"] == RESCALERS[name]


def test_it_is_fully_fine_tuned_and_its_fingerprint_stays_what_it_was(
    name: str, path: Path, registry: Registry
) -> None:
    assert (registry.config.method, registry.config.method_options) == ("full", {})
    if name.startswith("0001"):
        return  # fingerprints came with 0002
    with closing(sqlite3.connect(FORMATS / name / "condu.sqlite")) as connection:
        (before,) = connection.execute("SELECT fingerprint FROM registry").fetchone()
    assert registry.config.fingerprint() == before


@pytest.mark.parametrize("name", ["0002-history", "0003-bfloat16", "0004-records", "0005-heads"])
def test_an_expert_that_waited_is_committed(registry: Registry, expected: Deltas) -> None:
    """It names the fingerprint of its registry, which must not have changed."""
    (waiting,) = registry.waiting.paths()
    done = resume_expert(registry, registry.waiting.open(waiting), command="learn --resume")
    assert isinstance(done, Commit)
    assert [entry.name for entry in done.session.entries] == [*TASKS, "kites"]
    assert_same(decoded(registry), expected)


@pytest.mark.parametrize(
    "corruption",
    [
        "UPDATE registry SET codec_options = 'not json'",
        "UPDATE registry SET codec_options = '[1]'",
        "UPDATE registry SET codec_options = replace(hex(zeroblob(50000)), '0', '[')",
        "UPDATE registry SET parameters = '{'",
        "UPDATE registry SET base_id = x'ff'",
        "UPDATE registry SET base_image_size = 9e999",
    ],
)
def test_a_corrupt_older_registry_is_an_integrity_error(
    name: str, path: Path, corruption: str
) -> None:
    with closing(sqlite3.connect(path / "condu.sqlite")) as connection:
        connection.execute(corruption)
        connection.commit()
    before = content(path)
    if name.startswith("0001"):
        with pytest.raises(IntegrityError, match="cannot be migrated"):
            Registry.open(path)
        assert content(path) == before
    else:  # later migrations do not read these columns; readers check the fingerprint
        with pytest.raises(IntegrityError, match="was altered"):
            _ = Registry.open(path).config


def test_experts_have_heads_since_0005(name: str, registry: Registry) -> None:
    with_head = {e.name for s in registry.sessions() for e in s.entries if e.expert.head}
    assert with_head == ({"digits", "birds"} if name >= "0005" else set())


def test_nothing_is_recorded_that_was_not_known(registry: Registry) -> None:
    assert registry.config.base.preparation is None


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("name", ["0004-records", "0005-heads"])
def test_an_older_archive_is_imported(name: str, tmp_path: Path, *, there: bool) -> None:
    """It was exported from the folder of the same name, by the same version."""
    if there:
        (tmp_path / "registry").mkdir()
    summary = read_archive(FORMATS / f"{name}.tar", tmp_path / "registry")
    registry = Registry.open(tmp_path / "registry")
    with np.load(FORMATS / f"{name}.npz") as arrays:
        assert_same(decoded(registry), dict(arrays))
    assert summary.sessions == 3
    assert verify(registry).problems == ()


def test_the_expectations_are_of_every_expert_of_every_session(
    registry: Registry, expected: Deltas
) -> None:
    names = [parameter.name for parameter in registry.config.parameters]
    assert expected.keys() == {
        f"{number}/{task}/{name}"
        for number in range(3)
        for task in TASKS[: number + 1]
        for name in names
    }
    assert all(np.any(delta) for delta in expected.values())


def test_every_expert_decodes_to_what_it_decoded_to(registry: Registry, expected: Deltas) -> None:
    assert_same(decoded(registry), expected)


@pytest.mark.parametrize("quick", [True, False])
def test_verify_finds_nothing_wrong(registry: Registry, quick: bool) -> None:
    found = verify(registry, quick=quick)
    assert found.problems == ()
    assert found.leftovers == ()
    assert found.sessions == 3


def test_learning_on_and_rolling_back_changes_nothing_older(
    name: str, registry: Registry, expected: Deltas
) -> None:
    head = registry.head()
    assert head is not None
    commit = learn(registry, "flowers")
    assert commit.warnings == ()
    assert [e.name for e in commit.session.entries] == [*TASKS[: HEADS[name] + 1], "flowers"]
    assert head.id in registry.packs()
    assert_same(decoded(registry), expected)
    assert verify(registry).problems == ()

    roll_back(registry, Aim(head.id), "condu rollback")
    assert registry.head() == head
    assert_same(decoded(registry), expected)
    assert verify(registry).problems == ()

    again = learn(registry, "flowers", seed=8)
    assert again.session.parent == head.id
    assert_same(decoded(registry), expected)
    assert verify(registry).problems == ()


def test_after_a_collection_every_kept_session_still_decodes_to_the_same(
    name: str, registry: Registry, expected: Deltas
) -> None:
    learn(registry, "flowers")
    birds = oldest_first(registry)[2]
    registry.tag("birds", birds, "condu tag birds")  # HEAD may be rolled back
    before = sum(ref.size for ref in registry.blobs.all())
    collection = collect(registry, None)
    assert collection.sessions == ()
    after = sum(ref.size for ref in registry.blobs.all())
    assert after == before if name >= "0002" else after < before  # packed along the way
    assert set(registry.packs()) >= {session.id for session in oldest_first(registry)[:2]}
    assert_same(decoded(registry), expected)
    found = verify(registry)
    assert (found.problems, found.leftovers) == ((), ())


def test_a_collection_that_keeps_one_session_keeps_that_one_whole(
    registry: Registry, expected: Deltas
) -> None:
    for tag in registry.tags():
        registry.remove_tag(tag, f"condu tag -d {tag}")
    commit = learn(registry, "flowers")
    first = oldest_first(registry)[0]
    registry.tag("first", first, "condu tag first")
    collection = collect(registry, 1, undo=False)
    assert {session.id for session in collection.sessions} == {
        session.id for session in oldest_first(registry)[1:3]
    }
    assert registry.head() == commit.session
    codec = codec_for(registry.config)
    state = open_state(registry, first)
    found = {
        f"0/digits/{name}": np.array(d) for name, d in codec.decode(state.shared, state.parts[0])
    }
    assert_same(found, {key: delta for key, delta in expected.items() if key.startswith("0/")})
    assert verify(registry).problems == ()


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), ValueError("x")])
@pytest.mark.parametrize("step", ["create_table", "create_index", "add_column", "get_bind"])
def test_a_migration_that_fails_in_the_middle_leaves_everything_unchanged(
    name: str, path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    from alembic import op

    if step not in STEPS[name[:4]]:
        pytest.skip("no migration on the way does that")
    before, blobs = content(path), files(path)
    sound = getattr(op, step)
    times: list[int] = []

    def fail_the_last_time(*arguments: object, **options: object) -> object:
        times.append(1)
        if len(times) == TIMES[name[:4]].get(step, 1):
            raise error
        return sound(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(op, step, fail_the_last_time)
        with pytest.raises(ConduError):
            Registry.open(path)
    assert content(path) == before
    assert files(path) == blobs
    assert not (path / "lock.holder").exists()
    assert Registry.open(path).sessions()


def test_a_schema_of_the_future_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path / "condu.sqlite")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0999'")
        connection.execute("UPDATE registry SET written_by = '7.0'")
        connection.commit()
    before = content(path)
    with pytest.raises(RegistryTooNewError, match="schema 0999") as refused:
        Registry.open(path)
    assert refused.value.exit_code == 12
    assert "condu>=7.0" in hint_of(refused.value)
    assert content(path) == before
    assert not (path / "backups").exists()
