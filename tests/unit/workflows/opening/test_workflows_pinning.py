"""Pinning: a reader sees one session, complete and unchanged, whatever other processes do."""

import gc
import subprocess
import sys
import threading

import numpy as np
import pytest
from made_registries import flip, learn, made_registry

from condu_cli.errors import IntegrityError
from condu_cli.registry.blobs.store import BlobReader
from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import Aim
from condu_cli.workflows.opening import pinning
from condu_cli.workflows.opening.pinning import ATTEMPTS, PinnedSession, pin_head
from condu_cli.workflows.sessions.coding import codec_for
from condu_cli.workflows.sessions.collecting import collect
from condu_cli.workflows.sessions.moving_head import roll_back


@pytest.fixture
def registry(tmp_path) -> Registry:
    registry = made_registry(tmp_path / "made", "cars")
    learn(registry, "birds", head=True)
    return registry


def decode(registry, pinned) -> list:
    session, codec = pinned.session, codec_for(registry.config)
    return [
        np.concatenate([v.ravel() for _, v in codec.decode(pinned.blob(session.shared), part)])
        for part in map(pinned.blob, [entry.part for entry in session.entries])
    ]


def test_the_empty_state_needs_no_pin(tmp_path):
    assert pin_head(made_registry(tmp_path / "empty")) is None


def test_a_session_of_no_tasks_is_pinned_too(registry):
    from condu_cli.workflows.sessions.forgetting import forget

    for task in ("birds", "cars"):
        forget(registry, task, "forget")
    assert pin_head(registry).session == registry.head()


def test_a_pinned_session_is_read_to_its_end_although_it_was_packed_and_removed(registry):
    wanted = decode(registry, pin_head(registry))
    pinned = pin_head(registry)
    other = Registry.open(registry.path)
    learn(other, "digits")
    assert not registry.blobs.exists(pinned.session.shared)
    roll_back(other, Aim(steps=3), "rollback")
    collect(other, 1, undo=False)
    found = decode(registry, pinned)
    assert all(np.array_equal(one, two) for one, two in zip(wanted, found, strict=True))
    for entry in pinned.session.entries:
        assert set(pinned.blob(entry.expert.prototypes)) >= {"text", "image"}


@pytest.mark.parametrize("times", [1, ATTEMPTS - 1])
def test_a_session_that_is_packed_while_it_is_opened_is_left_for_the_new_head(
    registry, monkeypatch, times
):
    other, moved = Registry.open(registry.path), []
    real = PinnedSession.__init__

    def opened(self, registry, session):
        if len(moved) < times:
            moved.append(learn(other, f"task{len(moved)}"))
        real(self, registry, session)

    monkeypatch.setattr(pinning.PinnedSession, "__init__", opened)
    assert pin_head(registry).session == moved[-1]


def test_a_head_that_never_stays_is_an_error_in_the_end(registry, monkeypatch):
    other, moved = Registry.open(registry.path), []
    real = PinnedSession.__init__

    def opened(self, registry, session):
        moved.append(learn(other, f"task{len(moved)}"))
        real(self, registry, session)

    monkeypatch.setattr(pinning.PinnedSession, "__init__", opened)
    with pytest.raises(IntegrityError, match="missing"):
        pin_head(registry)
    assert len(moved) == ATTEMPTS


def test_a_missing_blob_is_an_error_at_once_where_head_has_not_moved(registry, monkeypatch):
    registry.blobs.path(registry.head().shared).unlink()
    attempts = []
    real = PinnedSession.__init__

    def opened(self, registry, session):
        attempts.append(session)
        real(self, registry, session)

    monkeypatch.setattr(pinning.PinnedSession, "__init__", opened)
    with pytest.raises(IntegrityError, match="missing"):
        pin_head(registry)
    assert len(attempts) == 1


@pytest.mark.parametrize("which", ["shared", "part", "prototypes", "head"])
@pytest.mark.parametrize("offset", [-1, -40])
def test_a_wrong_byte_is_found_before_the_blob_is_handed_out(registry, which, offset):
    head = registry.head()
    entry = head.entry("birds")
    sha256 = {"shared": head.shared, "part": entry.part, **kinds_of(entry.expert)}
    flip(registry.blobs.path(sha256[which]), offset)
    pinned = pin_head(registry)
    with pytest.raises(IntegrityError, match=f"{sha256[which]} is corrupt"):
        pinned.blob(sha256[which])
    for name, other in sha256.items():
        if name != which:
            assert pinned.blob(other).sha256 == other


def kinds_of(expert) -> dict[str, str]:
    return {kind: sha256 for sha256, kind in expert.blob_kinds().items()}


def test_a_blob_that_is_not_part_of_the_session_is_not_handed_out(registry):
    with pytest.raises(KeyError):
        pin_head(registry).blob("0" * 64)


# Many blobs


@pytest.fixture
def waiting_hashes(monkeypatch):
    """The thread that hashes is stuck at the first blob, until the end of the test."""
    started, go = threading.Event(), threading.Event()
    real = BlobReader.verify

    def verify(self):
        if threading.current_thread() is not threading.main_thread():
            started.set()
            go.wait()
        real(self)

    monkeypatch.setattr(BlobReader, "verify", verify)
    yield started
    go.set()


def test_what_is_asked_for_is_hashed_before_its_turn(registry, waiting_hashes):
    pinned = pin_head(registry)
    waiting_hashes.wait()
    last = pinned.session.entries[-1].part
    assert pinned.blob(last).sha256 == last
    assert pinned.blob(last).sha256 == last


def test_a_blob_that_is_corrupt_is_so_each_time_it_is_asked_for(registry, waiting_hashes):
    part = registry.head().entries[-1].part
    flip(registry.blobs.path(part), -1)
    pinned = pin_head(registry)
    waiting_hashes.wait()
    for _ in range(2):
        with pytest.raises(IntegrityError, match=part):
            pinned.blob(part)


def test_unread_blobs_are_not_hashed_at_the_end_of_the_program(registry):
    program = """
import sys, threading
from pathlib import Path
from condu_cli.registry.blobs.store import BlobReader
from condu_cli.registry.repository import Registry
from condu_cli.workflows.opening.pinning import pin_head

started = threading.Event()

def verify(self):
    started.set()
    threading.Event().wait()  # as if it hashed terabytes

BlobReader.verify = verify
pinned = pin_head(Registry.open(Path(sys.argv[1])))
started.wait()
print("done")
"""
    command = [sys.executable, "-c", program, str(registry.path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert ran.stdout == "done\n"


def test_a_pin_that_is_given_up_hashes_nothing_more(registry, waiting_hashes):
    pinned = pin_head(registry)
    waiting_hashes.wait()
    pending = list(pinned._hashes.values())
    del pinned
    gc.collect()
    assert all(future.cancelled() for future in pending[1:])
