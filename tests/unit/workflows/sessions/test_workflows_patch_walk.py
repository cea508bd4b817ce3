"""The walk over packed sessions: each patch once, whatever the history's shape."""

import weakref

import numpy as np
import pytest
from counting import counted
from made_registries import flip, learn, made_registry

from condu_cli.errors import IntegrityError
from condu_cli.registry.manifest import Pack, short_id
from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import Aim
from condu_cli.workflows.sessions.history_packing import pack_history
from condu_cli.workflows.sessions.moving_head import roll_back
from condu_cli.workflows.sessions.patch_walk import restored_states
from condu_cli.workflows.sessions.states import open_state, tensors_of


@pytest.fixture
def registry(tmp_path) -> Registry:
    """a - b - c - d, of which b has a second line: e - f; HEAD is f."""
    registry = made_registry(tmp_path / "made", *"abcd")
    roll_back(registry, Aim(steps=2), "rollback")
    learn(registry, "e")
    learn(registry, "f")
    with registry.lock("test"):
        pack_history(registry)
    return registry


def walk(registry, wanted=None):
    history = registry.history()
    wanted = {s.id for s in history.live} if wanted is None else wanted
    return restored_states(registry, history, wanted)


def bits(state) -> list[dict[str, bytes]]:
    return [{n: np.asarray(a[n]).tobytes() for n in a} for a in tensors_of(state)]


def test_every_session_comes_once_after_what_it_is_stored_on(registry):
    packs = registry.packs()
    order = [restored.session.id for restored in walk(registry)]
    assert sorted(order) == sorted(registry.session_ids())
    for session_id, pack in packs.items():
        assert order.index(pack.reference) < order.index(session_id)


def test_every_state_is_what_its_own_chain_gives(registry):
    for restored in walk(registry):
        expected = open_state(registry, restored.session)
        assert bits(restored.state().state) == bits(expected)


def test_each_patch_is_applied_once(registry):
    patches = [pack for pack in registry.packs().values() if pack.patch is not None]
    with counted() as counts:
        list(walk(registry))
    assert counts.patches == len(patches) == 4


def test_only_what_leads_to_the_wanted_sessions_is_read(registry):
    f, e, *_ = registry.sessions()
    with counted() as counts:
        (restored,) = walk(registry, {e.id})
    assert restored.session == e
    assert counts.patches == 1
    with counted() as counts:
        assert [r.session for r in walk(registry, {f.id})] == [f]
    assert counts.patches == 0


def test_no_more_than_two_states_of_a_line_are_held(tmp_path):
    registry = made_registry(tmp_path / "line", *"abcdefgh")
    alive: list[weakref.ref] = []
    for restored in walk(registry):
        alive.append(weakref.ref(restored))
        del restored
        assert sum(ref() is not None for ref in alive) <= 2


def test_a_broken_patch_is_the_fault_of_all_behind_it_and_of_no_other(registry):
    b, a = registry.sessions()[-2:]
    flip(registry.blobs.path(registry.packs()[b.id].patch), -1)
    found = {r.session.id: r.found for r in walk(registry)}
    assert {i for i, state in found.items() if isinstance(state, IntegrityError)} == {b.id, a.id}
    with pytest.raises(IntegrityError):
        next(r for r in walk(registry) if r.session == a).state()


def test_sessions_in_a_circle_are_named_and_the_others_come(registry):
    f, e, d, c, b, a = registry.sessions()
    history = registry.history()
    packs = dict(history.packs)
    packs[b.id] = Pack(b.id, a.id, None)
    object.__setattr__(history, "packs", packs)
    wanted = {s.id for s in history.live}
    found = {r.session.id: r.found for r in restored_states(registry, history, wanted)}
    for session in (a, b):
        assert f"{short_id(session.id)} form a cycle" in str(found[session.id])
    assert not any(isinstance(found[s.id], IntegrityError) for s in (c, d, e, f))


def test_a_packed_session_is_not_restored_from_its_own_files(registry):
    """They may be corrupt: the patch must be able to restore the session."""
    _, e, *_ = registry.sessions()
    before = bits(next(walk(registry, {e.id})).state().state)
    roll_back(registry, Aim(e.id), "rollback")
    roll_back(registry, Aim(registry.sessions()[0].id), "rollback")
    assert bits(next(walk(registry, {e.id})).state().state) == before
