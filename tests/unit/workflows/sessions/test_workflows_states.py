"""States: a session's experts are the same whether read from its files or from patches."""

import numpy as np
import pytest
from made_registries import blob_bytes, decoded, flip, learn, made_fresh
from registry_templates import copy_of

from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import IntegrityError
from condu_cli.registry.manifest import short_id
from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import Aim
from condu_cli.workflows.sessions import states
from condu_cli.workflows.sessions.coding import codec_for
from condu_cli.workflows.sessions.forgetting import forget, rename
from condu_cli.workflows.sessions.history_packing import pack_history
from condu_cli.workflows.sessions.moving_head import roll_back
from condu_cli.workflows.sessions.states import (
    check_state,
    open_state,
    partners,
    restore_files,
    tensors_of,
)

CODECS = [(d, r) for d in ("float32", "bfloat16", "int8") for r in ("global", "tensor", "row")]


def no_packing(monkeypatch):
    from condu_cli.workflows.sessions import committing, forgetting, history_packing

    for module in (committing, forgetting):
        monkeypatch.setattr(module, "pack_parent", lambda *_: history_packing.Packed())


def grow(registry: Registry) -> None:
    """Seven sessions: three learned, one renamed, one forgotten, two learned."""
    for task in ("birds", "cars", "digits"):
        learn(registry, task)
    rename(registry, "cars", "vehicles", "rename")
    forget(registry, "birds", "forget")
    for task in ("flags", "birds"):
        learn(registry, task)


NOTED = {}
"""For each codec's registry: what every session decodes to, and the bytes of its files."""


def make_packed(path, dtype, rescaler) -> None:
    """Build a registry, record each session's content while it has files, and pack it."""
    registry = made_fresh(path, dtype=dtype, rescaler=rescaler)
    with pytest.MonkeyPatch.context() as patch:
        no_packing(patch)
        grow(registry)
    NOTED[dtype, rescaler] = {
        s.id: (decoded(registry, s), blob_bytes(registry, s)) for s in registry.sessions()
    }
    with registry.lock("test"):
        pack_history(registry)


@pytest.fixture
def made(tmp_path):
    """A registry of packed sessions, and the recorded content of each of them."""

    def build(dtype="float32", rescaler="row"):
        registry = copy_of(tmp_path / "made", make_packed, dtype=dtype, rescaler=rescaler)
        return registry, NOTED[dtype, rescaler]

    return build


def packed(registry) -> list:
    history = registry.history()
    return [s for s in history.live if not history.has_files(s)]


@pytest.mark.parametrize(("dtype", "rescaler"), CODECS)
def test_every_session_of_a_history_decodes_to_the_same_bits_from_patches(made, dtype, rescaler):
    registry, noted = made(dtype, rescaler)
    assert packed(registry)
    for session in registry.sessions():
        assert decoded(registry, session) == noted[session.id][0]


@pytest.mark.parametrize(("dtype", "rescaler"), CODECS)
def test_files_are_restored_byte_for_byte(made, dtype, rescaler):
    registry, noted = made(dtype, rescaler)
    for session in packed(registry):
        with registry.lock("test"):
            restore_files(registry, session)
        assert blob_bytes(registry, session) == noted[session.id][1]
        check_state(registry, session)


def test_the_oldest_session_is_restored_over_all_patches_in_between(made):
    registry, noted = made()
    history = registry.history()
    oldest = history.sessions[-1]
    assert len(history.packs) == 6
    assert sum(registry.blobs.exists(sha256) for sha256 in oldest.state_blobs()) == 0
    assert decoded(registry, oldest) == noted[oldest.id][0]


def test_files_are_not_written_where_they_are(made, monkeypatch):
    registry, _ = made()
    monkeypatch.setattr(type(registry.blobs), "put_again", lambda *_: pytest.fail("written"))
    with registry.lock("test"):
        restore_files(registry, registry.head())


def test_the_empty_state_has_no_experts(made):
    registry, _ = made()
    state = open_state(registry, None)
    assert (state.shared, list(state.parts)) == (None, [])
    check_state(registry, None)


def test_a_state_lists_its_tensors_in_the_order_of_its_blobs(made):
    registry, _ = made()
    head = registry.head()
    state = open_state(registry, head)
    found = [reader.sha256 for reader in tensors_of(state)]
    assert found == list(head.state_blobs())


# The same expert in two sessions


def test_partners_are_the_same_experts_whatever_their_names_are(made):
    registry, _ = made()
    newest_first = registry.sessions()
    head, third = newest_first[0], newest_first[4]
    assert [e.name for e in third.entries] == ["birds", "cars", "digits"]
    assert [e.name for e in head.entries] == ["vehicles", "digits", "flags", "birds"]
    # birds was forgotten and learned again: a new expert under the same name.
    assert partners(third, head) == [None, 0, 1]


# Failures


@pytest.mark.parametrize("offset", [0, 9, 200, -300, -1])
def test_a_corrupt_patch_is_an_error_that_names_the_session_and_a_blob(made, offset):
    registry, _ = made()
    session = registry.session(registry.head().parent)
    patch = registry.packs()[session.id].patch
    flip(registry.blobs.path(patch), offset)
    with pytest.raises(IntegrityError) as caught:
        decoded(Registry.open(registry.path), session)
    blobs = {patch, *session.state_blobs()}
    assert any(sha256 in caught.value.message for sha256 in blobs), caught.value.message


def test_every_byte_of_a_patch_counts_or_changes_nothing(made):
    """A changed byte is either found or has no effect on the session."""
    registry, noted = made()
    session = registry.session(registry.head().parent)
    path = registry.blobs.path(registry.packs()[session.id].patch)
    rng = np.random.default_rng(0)
    for offset in sorted(rng.integers(0, path.stat().st_size, 60)):
        flip(path, int(offset))
        try:
            found = decoded(registry, session)
        except IntegrityError:
            pass
        else:
            assert found == noted[session.id][0]
        flip(path, int(offset))


def test_a_corrupt_newer_session_does_not_pass_for_the_older_one(made):
    registry, _ = made()
    session = registry.session(registry.head().parent)
    flip(registry.blobs.path(registry.head().shared), -1)
    with pytest.raises(IntegrityError):
        decoded(registry, session)


def test_a_missing_patch_is_an_error_that_names_it(made):
    registry, _ = made()
    session = registry.session(registry.head().parent)
    patch = registry.packs()[session.id].patch
    registry.blobs.path(patch).unlink()
    with pytest.raises(IntegrityError, match=f"{patch} is missing"):
        decoded(registry, session)


def test_a_session_without_patch_and_files_is_an_error(made):
    registry, _ = made()
    head = registry.head()
    registry.blobs.path(head.shared).unlink()
    with pytest.raises(IntegrityError, match=f"{head.shared} is missing"):
        decoded(registry, head)
    with pytest.raises(IntegrityError, match=f"{head.shared} is missing"):
        check_state(registry, head)


def test_patches_in_a_circle_are_an_error_and_no_endless_loop(made):
    registry, _ = made()
    one, other = registry.sessions()[1:3]
    with registry.lock("test"):
        registry.record_pack(one, other, None)
    with pytest.raises(IntegrityError, match=f"{short_id(other.id)} form a cycle"):
        decoded(registry, other)


def test_files_that_cannot_be_had_back_leave_nothing_behind(made):
    registry, _ = made()
    session = registry.session(registry.head().parent)
    before = {ref.sha256 for ref in registry.blobs.all()}
    flip(registry.blobs.path(registry.packs()[session.id].patch), -1)
    with pytest.raises(IntegrityError), registry.lock("test"):
        restore_files(registry, session)
    assert {ref.sha256 for ref in registry.blobs.all()} == before
    assert list(registry.paths.tmp.iterdir()) == []


@pytest.mark.parametrize("options", [{"dtype": "float8"}, {"unknown": "x"}])
def test_an_option_of_a_newer_codec_is_an_error(made, options):
    from dataclasses import replace

    from condu_cli.registry.manifest import CodecChoice

    registry, _ = made()
    config = replace(registry.config, codec=CodecChoice("condu", options))
    with pytest.raises(IntegrityError, match="codec cannot be used") as caught:
        codec_for(config)
    assert "Upgrade" in hint_of(caught.value)


def test_a_session_that_a_writer_packs_meanwhile_is_read_from_its_patch(made, monkeypatch):
    registry, noted = made()
    second = registry.sessions()[1]
    roll_back(registry, Aim(), "rollback")
    real = states.state_from_files

    def late(*args):
        monkeypatch.setattr(states, "state_from_files", real)
        roll_back(registry, Aim(undo=True), "undo")
        assert blob_bytes(registry, second) == {}
        return real(*args)

    monkeypatch.setattr(states, "state_from_files", late)
    assert decoded(registry, second) == noted[second.id][0]


def test_a_pack_that_names_the_wrong_session_is_corruption(made):
    registry, _ = made()
    newest, second = registry.sessions()[:2]
    with registry.lock("test"):
        registry.record_pack(second, newest, None)
    ids = (short_id(second.id), short_id(newest.id))
    with pytest.raises(IntegrityError, match="session {} cannot be restored from {}".format(*ids)):
        open_state(registry, second)
