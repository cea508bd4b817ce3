"""Verifying: every changed byte of a registry is found and named."""

import hashlib
import json
import re
import sqlite3
import struct
from contextlib import closing

import numpy as np
import pytest
from made_registries import flip, learn, made_expert, made_registry

from condu_cli.cli.hints.making import hint_for, hint_of
from condu_cli.errors import IntegrityError
from condu_cli.registry.manifest import short_id
from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import Aim
from condu_cli.workflows.sessions import trained_experts, verification
from condu_cli.workflows.sessions.forgetting import forget, rename
from condu_cli.workflows.sessions.moving_head import roll_back
from condu_cli.workflows.sessions.trained_experts import keep_expert
from condu_cli.workflows.sessions.verification import verify


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One registry for all tests that undo their changes."""
    registry = made_registry(tmp_path_factory.mktemp("verified") / "made", "birds", "cars")
    rename(registry, "cars", "vehicles", "rename")
    forget(registry, "birds", "forget")
    learn(registry, "digits")
    return registry


@pytest.fixture
def registry(tmp_path) -> Registry:
    return made_registry(tmp_path / "made", "birds", "cars", "digits")


def objects(found) -> list[str]:
    return [problem.object for problem in found.problems]


def sample(size: int, count: int, seed: int) -> list[int]:
    """Return positions in the header's length and start, the first and last bytes, and between."""
    rng = np.random.default_rng(seed)
    fixed = {0, 1, 7, 8, 9, size // 2, size - 2, size - 1}
    return sorted(fixed | set(rng.integers(0, size, count).tolist()))


def assert_found(registry, path, offset) -> None:
    flip(path, offset)
    try:
        found = verify(registry)
    finally:
        flip(path, offset)
    assert f"blob {path.name}" in objects(found), f"offset {offset} of {path.name}"
    problem = found.problems[objects(found).index(f"blob {path.name}")]
    assert problem.sessions
    assert problem.reason
    assert problem.path == path
    assert re.search("condu (rollback|gc|forget) ", hint_for(problem.failure, problem.facts))


# Intact


def test_a_sound_registry_has_no_problems(made):
    for quick in (False, True):
        found = verify(made, quick=quick)
        assert found.problems == ()
        assert found.leftovers == ()
        assert (found.quick, found.sessions) == (quick, 5)
        assert found.blobs == len(list(made.blobs.all()))
        assert found.bytes == sum(ref.size for ref in made.blobs.all())


def test_an_empty_registry_is_sound(tmp_path):
    assert verify(made_registry(tmp_path / "empty")).problems == ()


def test_progress_counts_blobs_and_sessions(made):
    events = []
    verify(made, on_progress=events.append)
    last = {event.stage: (event.done, event.total) for event in events}
    blobs = len(list(made.blobs.all()))
    assert last == {"blobs": (blobs, blobs), "sessions": (5, 5)}


# One byte


def test_one_wrong_byte_anywhere_in_any_blob_is_found_and_named(made):
    for number, ref in enumerate(made.blobs.all()):
        for offset in sample(ref.size, 4, number):
            assert_found(made, made.blobs.path(ref.sha256), offset)
    assert verify(made).problems == ()


def test_every_byte_of_the_smallest_blob_is_guarded(made, monkeypatch):
    """Skip the other blobs, which have not changed."""
    smallest = min(made.blobs.all(), key=lambda ref: ref.size)
    path = made.blobs.path(smallest.sha256)
    only = {smallest.sha256: "patch"}
    monkeypatch.setattr(
        "condu_cli.registry.reachability.History.needed_blobs", lambda _: dict(only)
    )
    history = made.history()
    for offset in range(smallest.size):
        flip(path, offset)
        found = list(
            verification._check_files(made, history, quick=False, on_progress=lambda _: None)
        )
        flip(path, offset)
        assert [exc.facts["blob"] for exc in found] == [path.name], offset


def test_the_sessions_that_need_a_blob_are_named(registry):
    third, second, first = registry.sessions()
    patch = registry.packs()[second.id].patch
    flip(registry.blobs.path(patch), -1)
    (problem,) = verify(registry).problems
    assert problem.object == f"blob {patch}"
    assert set(problem.sessions) == {second.id, first.id}
    flip(registry.blobs.path(patch), -1)
    flip(registry.blobs.path(third.shared), -1)
    (problem,) = verify(registry).problems
    assert set(problem.sessions) == {third.id, second.id, first.id}
    flip(registry.blobs.path(third.shared), -1)
    flip(registry.blobs.path(third.entry("digits").expert.prototypes), -1)
    (problem,) = verify(registry).problems
    assert problem.sessions == (third.id,)  # the others come from its state alone


def test_several_problems_are_all_named(registry):
    corrupt = [ref.sha256 for ref in registry.blobs.all()][:3]
    for sha256 in corrupt:
        flip(registry.blobs.path(sha256), -1)
    assert objects(verify(registry)) == [f"blob {sha256}" for sha256 in corrupt]


# Files


@pytest.mark.parametrize("quick", [False, True])
def test_a_missing_blob_is_found(registry, quick):
    for ref in list(registry.blobs.all()):
        path = registry.blobs.path(ref.sha256)
        content = path.read_bytes()
        path.unlink()
        found = verify(registry, quick=quick)
        assert f"blob {ref.sha256}" in objects(found)
        assert "missing" in found.problems[0].reason
        path.write_bytes(content)


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("left", [0, 4, 100, -1])
def test_a_blob_that_was_cut_or_has_grown_is_found(registry, quick, left):
    for ref in list(registry.blobs.all()):
        path = registry.blobs.path(ref.sha256)
        content = path.read_bytes()
        for wrong in (content[:left], content + b"\0"):
            path.write_bytes(wrong)
            assert f"blob {ref.sha256}" in objects(verify(registry, quick=quick))
        path.write_bytes(content)
    assert verify(registry).problems == ()


def test_another_shape_of_the_same_size_is_found_by_quick_too(registry):
    head = registry.head()
    path = registry.blobs.path(head.shared)
    content = path.read_bytes()
    assert b'"shape":[24,40]' in content
    path.write_bytes(content.replace(b'"shape":[24,40]', b'"shape":[40,24]'))
    assert objects(verify(registry, quick=True))


def test_quick_does_not_read_every_byte(registry):
    flip(registry.blobs.path(registry.head().shared), -1)
    assert verify(registry, quick=True).problems == ()
    assert verify(registry).problems


def test_a_link_in_the_place_of_a_blob_is_found(registry, tmp_path):
    path = registry.blobs.path(registry.head().shared)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert objects(verify(registry)) == [f"blob {path.name}"]


def test_an_unreferenced_blob_is_a_leftover_and_no_problem(registry):
    ref = registry.blobs.put({"x": np.arange(5)})
    found = verify(registry)
    assert found.problems == ()
    assert [item.path.name for item in found.leftovers] == [ref.sha256]


def test_nothing_is_repaired(registry):
    path = registry.blobs.path(registry.head().shared)
    flip(path, -1)
    corrupt = path.read_bytes()
    verify(registry)
    assert path.read_bytes() == corrupt


# Waiting experts


@pytest.mark.parametrize("offset", [0, 9, 2000, -1])
def test_a_corrupt_expert_that_waits_is_found(registry, offset):
    waiting = keep_expert(registry, made_expert("flags"))
    assert verify(registry).problems == ()
    flip(waiting.path, offset)
    (problem,) = verify(registry).problems
    assert problem.object == f"trained/{waiting.path.name}"
    assert problem.reason.startswith("is corrupt: ")
    assert "condu learn --task flags " in hint_for(problem.failure, problem.facts)


# Trainings that are not finished


@pytest.fixture
def run(registry):
    """The file of a training; what a sound one holds is not of interest here."""
    return registry.runs.save("flags", {"state/x": np.arange(999.0)}, {"at": "2026"}).path


@pytest.mark.parametrize("offset", [0, 9, -1])
def test_a_damaged_training_is_found_and_a_sound_one_is_none(registry, run, offset):
    assert verify(registry).problems == ()
    flip(run, offset)
    (problem,) = verify(registry).problems
    assert (problem.object, problem.path) == (f"runs/{run.name}", run)
    assert problem.reason.startswith("is corrupt: ")
    hint = hint_for(problem.failure, problem.facts)
    assert "condu learn --task flags --data DIR --retrain" in hint
    assert f"rm {run}" in hint
    assert "backup" not in hint


def test_quick_does_not_hash_trainings(registry, run):
    flip(run, -1)
    assert verify(registry, quick=True).problems == ()
    flip(run, 0)
    assert objects(verify(registry, quick=True)) == [f"runs/{run.name}"]


def test_a_training_that_is_saved_anew_meanwhile_is_no_false_alarm(registry, run, monkeypatch):
    real = type(registry.runs).open

    def opened(files, path):
        path.unlink(missing_ok=True)
        return real(files, path)

    monkeypatch.setattr(type(registry.runs), "open", opened)
    assert verify(registry).problems == ()


# What is not condu's


@pytest.mark.parametrize("quick", [False, True])
def test_a_file_that_condu_did_not_write_is_told_and_no_problem(registry, quick):
    registry.paths.trained.mkdir(exist_ok=True)
    (registry.paths.trained / "thesis.txt").write_text("mine")
    found = verify(registry, quick=quick)
    assert found.problems == ()
    assert found.leftovers == ()
    assert found.unknown == (registry.paths.trained / "thesis.txt",)


# The database


def execute(registry, *statements: str) -> None:
    with closing(sqlite3.connect(registry.paths.database)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        triggers = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall()
        for (name,) in triggers:
            connection.execute(f'DROP TRIGGER "{name}"')
        for statement in statements:
            connection.execute(statement)
        connection.commit()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {session} SET task = 'other' WHERE ordinal = 2",
        "UPDATE {session} SET created_at = '2020-01-01T00:00:00Z' WHERE ordinal = 1",
        "UPDATE {entries} SET record = replace(record, ':1.', ':2.')",
        'UPDATE {entries} SET codec_options = \'{{"dtype":"int8"}}\'',
        'UPDATE {session} SET codec = \'{{"name":"raw","options":{{}}}}\'',
        "UPDATE {session} SET codec = '7'",
        "UPDATE {entries} SET name = 'renamed' WHERE name = 'birds'",
    ],
)
@pytest.mark.parametrize("quick", [False, True])
def test_an_altered_row_does_not_match_its_sessions_id(registry, statement, quick):
    with closing(sqlite3.connect(registry.paths.database)) as connection:
        tables = {
            name: [column[1] for column in connection.execute(f'PRAGMA table_info("{name}")')]
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
        }
    entries = next(name for name, columns in tables.items() if "record" in columns)
    session = next(name for name, columns in tables.items() if "ordinal" in columns)
    execute(registry, statement.format(entries=entries, session=session))
    found = verify(Registry.open(registry.path), quick=quick)
    assert set(objects(found)) == {"condu.sqlite"}
    assert "backup" in hint_for(found.problems[0].failure, found.problems[0].facts)


def test_no_rollback_is_offered_from_a_session_whose_record_was_altered(registry):
    """None would work: it begins by reading HEAD."""
    execute(registry, "UPDATE sessions SET task = 'other' WHERE id IN (SELECT session FROM head)")
    with pytest.raises(IntegrityError) as caught:
        roll_back(Registry.open(registry.path), Aim(), "rollback")
    assert hint_of(caught.value) == "Restore condu.sqlite from a backup"


def test_a_patch_on_a_session_that_is_not_there_is_found(registry):
    third = registry.head()
    with registry.lock("test"):
        registry.record_collected([third.id], "gc")
    assert objects(verify(registry)) == ["condu.sqlite", "condu.sqlite"]


def test_patches_in_a_circle_are_found(registry):
    _, second, first = registry.sessions()
    with registry.lock("test"):
        registry.record_pack(second, first, None)
    assert set(objects(verify(registry))) == {"condu.sqlite"}


# Blobs that contradict the manifest


@pytest.mark.parametrize("figure", ["rescaler", "mask_density", "l1_norm"])
def test_a_figure_that_was_wrong_from_the_beginning_is_found(registry, monkeypatch, figure):
    from condu_cli.workflows.sessions import committing

    real = committing.TaskEntry

    def wrong(**values):
        return real(**{**values, "record": {**values["record"], figure: 0.123456}})

    monkeypatch.setattr(committing, "TaskEntry", wrong)
    session = learn(registry, "flags")
    (problem,) = [p for p in verify(registry).problems if p.sessions == (session.id,)]
    assert figure.replace("_", " ") in problem.reason


@pytest.mark.parametrize("quick", [True, False])
def test_a_head_that_never_fitted_its_classes_is_found(registry, monkeypatch, quick):
    learn(registry, "flags", head=True)
    assert verify(registry, quick=quick).problems == ()
    monkeypatch.setattr(trained_experts, "check_head", lambda arrays, classes: arrays)
    session = learn(registry, "trees", head=True, head_classes=3)
    (problem,) = verify(registry, quick=quick).problems
    assert problem.sessions == (session.id,)
    assert problem.reason.startswith("the head of task 'trees' is corrupt: stored tensor 'weights'")


def test_a_corrupt_head_is_found_in_every_session_that_has_it(registry):
    fourth = learn(registry, "flags", head=True)
    fifth = learn(registry, "trees")
    head = fifth.entry("flags").expert.head
    flip(registry.blobs.path(head), -1)
    (problem,) = verify(registry).problems
    assert problem.object == f"blob {head}"
    assert problem.sessions == (fifth.id, fourth.id)


# A concurrent writer


def test_a_session_packed_during_the_check_causes_no_false_alarm(registry, monkeypatch):
    other, done = Registry.open(registry.path), []
    real = verification._check_files

    def checked(*args, **values):
        if not done:
            done.append(learn(other, "flags"))
        return real(*args, **values)

    monkeypatch.setattr(verification, "_check_files", checked)
    found = verify(registry)
    assert found.problems == ()
    assert found.sessions == 4


def test_corruption_is_still_found_while_a_writer_is_at_work(registry, monkeypatch):
    other, count = Registry.open(registry.path), []
    flip(registry.blobs.path(registry.head().entry("birds").expert.prototypes), -1)
    real = verification._check_files

    def checked(*args, **values):
        count.append(learn(other, f"flags{len(count)}"))
        return real(*args, **values)

    monkeypatch.setattr(verification, "_check_files", checked)
    assert verify(registry).problems
    assert len(count) == verification.ATTEMPTS


def test_a_kept_expert_with_a_tensor_that_cannot_be_read_says_why(made):
    """Its hash is right: whoever wrote it, it was not condu."""
    kept = keep_expert(made, made_expert("flags"))
    content = kept.path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    name = next(name for name in header if name.startswith("delta/"))
    begin, end = header[name]["data_offsets"]
    header[name] |= {"dtype": "F8_E4M3", "shape": [end - begin]}
    text = json.dumps(header).encode()
    foreign = struct.pack("<Q", len(text)) + text + content[8 + length :]
    kept.path.unlink()
    named = f"flags.{hashlib.sha256(foreign).hexdigest()}.safetensors"
    (made.paths.trained / named).write_bytes(foreign)
    (problem,) = verify(made).problems
    assert problem.failure == "kept-file-corrupt"
    assert "dtype F8_E4M3" in problem.reason
    assert "condu learn --task flags" in hint_for(problem.failure, problem.facts)
    (made.paths.trained / named).unlink()


def test_what_cannot_be_read_may_only_lack_permissions(made, monkeypatch):
    shared = made.head().shared

    def refused(_, sha256):
        if sha256 == shared:
            raise IntegrityError(
                f"blob {sha256} is unreadable: Permission denied",
                reason="blob-unreadable",
                blob=sha256,
            )

    monkeypatch.setattr(type(made.blobs), "verify", refused)
    (problem,) = verify(made).problems
    assert hint_for(problem.failure, problem.facts).startswith(
        "Correct its permissions, or restore"
    )


def test_a_session_that_differs_from_its_files_has_advice_of_its_own(made, monkeypatch):
    head = made.head()

    def differs(entry, _):
        if entry.learned_in == head.id:
            raise IntegrityError("the figure is 2, not 1", reason="figures-differ")

    monkeypatch.setattr(verification, "_check_figures", differs)
    (problem,) = verify(made).problems
    assert (problem.object, problem.failure) == (f"session {short_id(head.id)}", "session-differs")
    before = short_id(head.parent)
    assert hint_for(problem.failure, problem.facts) == (
        f"Restore the registry from a backup, or go to another session: condu rollback {before}"
    )
